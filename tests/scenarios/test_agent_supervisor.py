"""What the supervisor does besides deployments: changes below it, studies, telemetry, the link."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Settings
from agent.errors import ConfigError
from agent.identity import Identity
from agent.jobs import RenewResult
from agent.testing import DEFAULTS, answers_wrongly, checked, fails, hang
from fitment.core.deployment import DesiredState, DeviceGates, Outcome, SignedPayload, StudyKind
from fitment.core.link import Downlink
from fitment.core.telemetry import CommandKind, TelemetryBatch
from tests.scenarios.agent_world import (
    SLOT,
    WALL_UNIX,
    World,
    assignment,
    fingerprint,
    study,
)


def committed(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.wish()
    world.run(2)
    world.runner.started.clear()
    return world


# The stack below changes


def test_a_changed_stack_is_checked_before_it_serves_again(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.device = fingerprint("1.21")
    world.runner.script = {"check": [hang]}
    world.run(10)
    assert world.supervisor.step() > 0  # waiting for a worker costs no processor
    world.run(20)
    slot = world.slot()
    assert slot is not None
    assert not slot.serving
    assert world.reported.fingerprint == world.device
    world.runner.script = {}
    world.run(200)  # the check that hangs is killed, another one answers
    slot = world.slot()
    assert slot is not None
    assert slot.serving
    assert slot.checked_stack == world.device.stack.hash


def test_a_model_that_answers_wrongly_on_the_new_stack_does_not_serve(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.device = fingerprint("1.21")
    world.runner.script = {"check": [answers_wrongly]}
    world.run(30)
    slot = world.slot()
    assert slot is not None
    assert (slot.golden_ok, slot.serving) == (False, False)
    assert "wrongly on this stack" in " ".join(world.reported.notes)
    assert world.runner.names() == ["check"]


def test_a_model_that_lost_its_integer_kernels_does_not_serve_until_they_are_back(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1", gates=DeviceGates(integer_coverage_min=0.9)))
    assert world.finish("d-1").outcome is Outcome.COMMITTED
    for stack, share in (("1.21", 0.2), ("1.22", 0.95)):
        world.device = fingerprint(stack)
        world.runner.script = {
            "check": [lambda job, n=share: replace(checked(job), integer_coverage=n)]
        }
        world.run(30)
        slot = world.slot()
        assert slot is not None
        assert (slot.golden_ok, slot.integer_coverage) == (True, share)
        assert slot.serving is (share >= 0.9)
        said = "0.20 of its heavy operators run in integers" in " ".join(world.reported.notes)
        assert said is not slot.serving


def test_a_model_that_no_longer_loads_does_not_serve(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.device = fingerprint("1.21")
    world.runner.script = {"check": [fails("died")]}
    world.run(60)
    slot = world.slot()
    assert slot is not None
    assert not slot.serving
    assert "does not run" in " ".join(world.reported.notes)
    assert world.runner.names() == ["check"] * 3


def test_a_change_that_is_gone_with_the_next_look_is_none(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.run(4)
    world.device = fingerprint("1.21")
    world.run(1.5)
    world.device = fingerprint("1.20")
    world.run(20)
    assert world.runner.names() == []
    assert world.reported.fingerprint == world.device


def test_another_condition_is_reported_and_checks_nothing(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.device = fingerprint(governor="powersave")
    world.run(20)
    assert world.runner.names() == []
    assert world.reported.fingerprint.condition.facts == {"governor": "powersave"}


def test_a_stack_that_changes_during_a_benchmark_makes_it_begin_anew(tmp_path: Path) -> None:
    world = World(tmp_path, {"benchmark": [hang]})
    world.wish(assignment("d-1"))
    world.until("benchmarking")
    world.steps(3)
    world.device = fingerprint("1.21")
    world.run(15)
    world.runner.script = {}
    world.run(700)
    assert world.states("d-1").count("staging") == 2
    slot = world.slot()
    assert slot is None  # the benchmark that hung on the new stack took its whole deadline
    assert world.report("d-1").outcome is Outcome.TIMED_OUT


def test_a_stack_that_changes_on_trial_is_asked_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1", trial_s=40.0))
    world.until("trial")
    world.device = fingerprint("1.21")
    report = world.finish("d-1")
    assert report.outcome is Outcome.COMMITTED
    assert "stack changed" in " ".join(report.reasons)
    world.run(2)
    slot = world.slot()
    assert slot is not None
    assert slot.checked_stack == world.device.stack.hash


def test_an_operator_may_ask_to_look_again(tmp_path: Path) -> None:
    world = committed(tmp_path)
    world.command(CommandKind.PROBE)
    world.run(3)
    assert world.runner.names() == ["check"]
    before = len(world.link.received)
    world.command(CommandKind.REPORT)
    world.run(1)
    assert [u.reported is not None for u in world.link.received[before:]] == [True]


# Settings


def test_settings_are_taken_while_it_runs_and_broken_ones_are_not(tmp_path: Path) -> None:
    world = committed(tmp_path)
    good = world.settings
    world.settings = replace(good, samples={SLOT: tmp_path / "samples"})
    world.folders.config.write_text("# changed")
    world.run(2)
    assert "samples" not in " ".join(world.reported.notes)

    def broken() -> Settings:
        raise ConfigError("[runtime] has no 'treads'")

    world.supervisor._parts.settings._load = broken
    world.folders.config.write_text("# changed again")
    world.run(2)
    assert "treads" in " ".join(world.reported.notes)
    world.supervisor._parts.settings._load = lambda: good
    world.folders.config.write_text("# mended by somebody")
    world.run(2)
    assert "treads" not in " ".join(world.reported.notes)


# Studies


@pytest.mark.parametrize(
    ("kind", "chain"),
    [
        (StudyKind.PROBE, ["fetch", "verify", "stage", "probe", "submit"]),
        (StudyKind.BENCHMARK, ["fetch", "verify", "stage", "benchmark", "submit"]),
    ],
)
def test_a_study_is_run_handed_in_and_cleaned_up(
    kind: StudyKind, chain: list[str], tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.wish(study("s-1", kind))
    world.run(10)
    assert world.runner.names() == chain
    job = world.runner.started[-1][1]
    assert job.study == "s-1"
    assert (job.kernels is not None) is (kind is StudyKind.PROBE)
    assert (job.measurement is not None) is (kind is StudyKind.BENCHMARK)
    assert world.reported.studies_done == ("s-1",)
    assert not list((tmp_path / "work" / "studies").iterdir())
    assert not list((tmp_path / "work" / "archives").iterdir())


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ({"fetch": [fails("not_found", permanent=True)]}, "fetch: it is not_found"),
        ({"verify": [fails("order", permanent=True)]}, "verify: it is order"),
        ({"probe": [fails("died")]}, "run: it is died"),
        ({"probe": [hang]}, "run: probe hung"),
        ({"submit": [fails("conflict", permanent=True)]}, "could not be handed in"),
    ],
    ids=["not found", "forged", "dies", "hangs", "not accepted"],
)
def test_a_study_that_fails_is_done_and_says_why(
    script: dict[str, list[object]], note: str, tmp_path: Path
) -> None:
    world = World(tmp_path, script)  # type: ignore[arg-type]
    world.wish(study("s-1"))
    world.run(900)
    assert world.reported.studies_done == ("s-1",)
    assert note in " ".join(world.reported.notes)


def test_a_result_waits_for_the_controller_and_is_not_taken_twice(tmp_path: Path) -> None:
    world = World(tmp_path, {"submit": [fails("unavailable")]})
    world.wish(study("s-1"))
    world.run(2000)
    assert world.reported.studies_done == ()
    assert world.runner.names().count("probe") == 1
    world.runner.script = {}
    world.link.disconnect()
    world.link.connect()
    world.run(2)
    assert world.reported.studies_done == ("s-1",)


def test_a_damaged_file_of_a_study_is_fetched_once_more(tmp_path: Path) -> None:
    world = World(tmp_path, {"verify": [fails("digest")]})
    world.wish(study("s-1"))
    world.run(120)
    assert world.runner.names().count("fetch") == 2
    assert world.reported.studies_done == ("s-1",)


def test_a_study_that_nobody_asks_for_any_more_is_dropped(tmp_path: Path) -> None:
    world = World(tmp_path, {"probe": [hang]})
    world.wish(study("s-1"))
    world.run(5)
    world.wish()
    world.run(2)
    assert world.runner.killed == 1
    assert world.reported.studies_done == ()


def test_a_deployment_goes_before_a_study(tmp_path: Path) -> None:
    world = World(tmp_path, {"fetch": [hang, hang]})
    world.wish(study("s-1"))
    world.run(2)
    world.runner.script = {}
    world.wish(study("s-1"), assignment("d-1"))
    world.finish("d-1")
    assert world.reported.studies_done == ()
    world.run(10)
    assert world.reported.studies_done == ("s-1",)


# Telemetry


def batches(world: World) -> list[TelemetryBatch]:
    return [u.telemetry for u in world.link.received if u.telemetry is not None]


def test_telemetry_is_kept_until_it_is_acknowledged(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"), telemetry_interval_s=5.0)
    world.run(20)
    sent = batches(world)
    assert [b.sequence for b in sent] == list(range(1, len(sent) + 1))
    assert sent[-1].columns["supervisor_anonymous_mib"].values == (12.0,)
    assert sent[-1].columns["last_latency_p50_ms"].values == (2.0,)
    assert sent[-1].tags["slot"] == SLOT
    assert math.isnan(sent[0].columns["last_latency_p50_ms"].values[0])
    world.ack(sent[0].outbox, 2)
    world.ack("another", 4)
    world.run(1)
    world.link.disconnect()
    world.link.connect()
    world.link.received.clear()
    world.heard = 0
    world.run(1)
    again = batches(world)
    assert again[0].sequence == 3
    assert again[0].first_available == 3


def test_numbers_go_on_after_a_restart_and_begin_anew_with_a_new_journal(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(3)
    first = batches(world)[0]
    world.kill()
    world.boot()
    world.run(3)
    assert [b.sequence for b in batches(world)] == [1, 2]
    world.kill()
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    world.boot()
    world.run(3)
    assert batches(world)[0].sequence == 1
    assert batches(world)[0].outbox != first.outbox


def test_what_got_lost_on_the_way_is_sent_again_and_the_way_is_not_flooded(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(telemetry_interval_s=1.0)
    world.run(25)
    assert len(batches(world)) == 16
    world.run(40)
    assert [b.sequence for b in batches(world)][:17] == [*range(1, 17), 1]


# The link and the rest


def test_what_happened_offline_is_told_when_the_link_is_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.until("fetching")
    world.link.disconnect()
    world.run(20)
    assert world.serves() == "v1"
    world.link.connect()
    world.run(1)
    assert world.report("d-1").outcome is Outcome.COMMITTED
    # The trial and the commit needed nobody.
    assert "reporting" in world.states("d-1")


def test_a_report_is_sent_only_when_something_changed(tmp_path: Path) -> None:
    world = committed(tmp_path)
    before = [u for u in world.link.received if u.reported is not None]
    world.run(60)
    assert [u for u in world.link.received if u.reported is not None] == before


def test_orders_that_make_no_sense_are_named_and_hurt_no_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    junk = SignedPayload(payload=b"{", key_id="k", signature=b"")
    world.run(2)
    orders = world.supervisor._orders
    assert orders is not None
    good = tuple(signed for signed, _ in orders.assignments)
    state = DesiredState(generation=9, assignments=(junk, *good))
    world.link.deliver(Downlink(desired=state))
    world.run(5)
    assert "makes no sense" in " ".join(world.reported.notes)
    assert world.report("d-1").outcome is Outcome.COMMITTED
    assert world.reported.observed_generation == 9


def test_the_floor_of_trusted_time_rises_and_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.clock.wall_s = 0.0  # back from 1970
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.wish(assignment("d-2", name="v2", counter=2))
    world.finish("d-2")
    floors = [job.now_unix for worker, job in world.runner.started if worker == "verify"]
    assert floors == [WALL_UNIX - 100, WALL_UNIX + 100]


def test_a_clock_in_1970_does_not_lock_a_device_out(tmp_path: Path) -> None:
    """The certificate has expired, which neither the clock nor the floor can tell."""
    world = World(tmp_path)
    world.kill()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "device.crt").write_text("")
    os.utime(tmp_path / "keys" / "device.crt", (0, 0))
    expired, true_unix = WALL_UNIX + 50_000_000, WALL_UNIX + 60_000_000
    world.identity = Identity(device="dev-1", gateway="g", enroll="e", expires_unix=expired)
    renewed = RenewResult(expires_unix=true_unix + 7_776_000, now_unix=true_unix)
    world.runner.script = {"renew": [fails("unavailable"), lambda _job: renewed]}
    world.boot()
    world.clock.wall_s = 0.0
    world.run(30)
    world.link.disconnect("the handshake failed")
    world.run(300)
    assert world.runner.names() == []  # an outage like any other, so far
    world.run(1000)
    assert world.runner.names() == ["renew", "renew"]
    assert float(world.journal.setting("time_floor")) == true_unix
    world.link.connect()
    world.run(3600)
    assert world.runner.names() == ["renew", "renew"]
    assert "renewed" not in " ".join(world.reported.notes)


def test_a_clock_that_is_ahead_does_not_renew_again_and_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.kill()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "device.crt").write_text("")
    world.identity = Identity(device="dev-1", gateway="g", enroll="e", expires_unix=WALL_UNIX - 5)
    renewed = RenewResult(expires_unix=WALL_UNIX, now_unix=WALL_UNIX - 7_776_000)
    world.runner.script = {"renew": [lambda _job: renewed] * 9}
    world.boot()
    world.clock.wall_s += 400 * 86400.0
    world.run(3000)
    assert world.runner.names() == ["renew"]


def test_the_certificate_is_renewed_in_time_and_late(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.kill()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "device.crt").write_text("")
    world.identity = Identity(device="dev-1", gateway="g", enroll="e", expires_unix=WALL_UNIX - 5)
    world.runner.script = {"renew": [fails("unavailable"), DEFAULTS["renew"]]}
    world.boot()
    world.run(5)
    assert "cannot be renewed" in " ".join(world.reported.notes)
    world.run(60)
    assert world.runner.names() == ["renew", "renew"]
    assert "cannot be renewed" not in " ".join(world.reported.notes)
    world.run(200)
    assert world.runner.names() == ["renew", "renew"]
