"""A device with a ladder: rungs stand ready, take over under pressure or failure, and come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.domain.ladder import Limits, Readings
from agent.domain.rungs import rung_slot
from agent.jobs import CheckJob
from agent.slots import RUNG
from agent.testing import answers_wrongly, checked, fails
from agent.workers.serving import follow
from fitment.core.deployment import Assignment, DeviceGates, Lesser, Outcome, Pressure
from fitment.core.telemetry import TelemetryBatch

from .agent_world import SLOT, World, assignment, bundle, fingerprint

CHEAP = Lesser(bundle=bundle("v2"), relieves=(Pressure.HEAT, Pressure.BATTERY), reason="narrower")
PORTABLE = Lesser(bundle=bundle("v3"), relieves=(Pressure.MEMORY,), portable=True)
HOT = Readings(temperature_c=84.0, throttle_c=85.0)
WARM = replace(HOT, temperature_c=80.0)
COOL = replace(HOT, temperature_c=60.0)
PAUSE_S = Limits().calm_s + Limits().dwell_s


def laddered(number: int = 1, rungs: Sequence[Lesser] = (CHEAP, PORTABLE), **more: object
             ) -> Assignment:  # fmt: skip
    return assignment(f"d-{number}", counter=number, ladder=tuple(rungs), **more)


def serves(world: World) -> str:
    """Name of the variant that a serving worker would load."""
    folder = follow.resolve(str(world.slots.link(SLOT))).folder
    names = {bundle(name).variant: name for name in ("v1", "v2", "v3", "v4")}
    return names[(Path(folder) / "bundle.json").read_text()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.wish(laddered())
    made.finish("d-1")
    made.run(30)
    return made


def test_rungs_are_fetched_verified_and_checked_after_the_chosen_variant(world: World) -> None:
    slot = world.slot()
    assert slot is not None
    assert [(r.rung, r.name, r.portable, r.ready) for r in slot.ladder] == [
        (1, "v2", False, True), (2, "v3", True, True)
    ]  # fmt: skip
    assert (slot.rung, slot.rung_reason, slot.variant) == (0, "", bundle("v1").variant)
    verified = [job for worker, job in world.runner.started if worker == "verify"]
    assert [job.rung for job in verified] == [0, 1, 2]
    assert {job.order.payload for job in verified} == {verified[0].order.payload}
    assert world.runner.names().count("benchmark") == 3
    assert serves(world) == "v1"
    assert [s.slot for s in world.reported.slots] == [SLOT]
    assert world.reported.deployments[0].outcome is Outcome.COMMITTED
    assert world.reported.notes == ()


def test_without_a_ladder_nothing_is_prepared_and_nothing_sensed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.readings = HOT
    world.run(200)
    assert world.slots.names() == (SLOT,)
    assert serves(world) == "v1"


@pytest.mark.parametrize("reachable", [True, False])
def test_heat_leads_down_and_back_also_offline(world: World, *, reachable: bool) -> None:
    if not reachable:
        world.link.disconnect()
    world.readings = HOT
    world.run(5)
    assert serves(world) == "v2"
    world.readings = WARM  # between the limits: nothing moves
    world.run(1000)
    assert serves(world) == "v2"
    world.readings = COOL
    world.run(Limits().calm_s - 10)
    assert serves(world) == "v2"
    world.run(20)
    assert serves(world) == "v1"
    assert not (world.slots.link(SLOT).parent / RUNG).is_symlink()


def test_the_chosen_ones_manifest_is_kept_for_the_rungs(world: World) -> None:
    kept = world.folders.slots / SLOT / "chosen.json"
    assert kept.read_bytes() == (world.slots.link(SLOT) / "bundle.json").read_bytes()


def test_the_twin_says_which_rung_since_when_and_why(world: World) -> None:
    world.readings = HOT
    before = world.clock.wall_s
    world.run(5)
    slot = world.slot()
    assert slot is not None
    assert (slot.rung, slot.rung_reason) == (1, "heat: 84.0 °C, clocks are cut at 85.0")
    assert before <= slot.rung_since_unix <= world.clock.wall_s
    assert slot.variant == bundle("v1").variant
    world.readings = COOL
    world.run(PAUSE_S)
    slot = world.slot()
    assert slot is not None
    assert (slot.rung, slot.rung_reason) == (0, "the pressure is over")


def test_samples_are_tagged_with_the_variant_and_the_rung_that_made_them(world: World) -> None:
    waiting = telemetry(world)
    world.ack(waiting.outbox, waiting.sequence)  # what nobody acknowledges is sent again first
    world.wish(laddered(), telemetry_interval_s=1.0)
    world.run(3)
    first = telemetry(world)
    assert (first.tags["variant"], first.tags["rung"]) == (bundle("v1").variant, "0")
    assert first.columns["last_latency_p50_ms"].values == (2.0,)
    world.readings = HOT
    world.run(5)
    tags, columns = telemetry(world).tags, telemetry(world).columns
    assert (tags["slot"], tags["variant"], tags["rung"]) == (SLOT, bundle("v2").variant, "1")
    assert tags[f"{SLOT}.variant"] == bundle("v2").variant
    assert columns[f"rung.{SLOT}"].values == (1.0,)
    (latency,) = columns["last_latency_p50_ms"].values
    assert latency != latency, "a latency of the chosen variant is none of the rung"


def telemetry(world: World) -> TelemetryBatch:
    return next(u.telemetry for u in reversed(world.link.received) if u.telemetry is not None)


def test_a_changed_stack_on_which_the_chosen_one_fails_is_served_from_a_rung(world: World) -> None:
    def check(job: CheckJob) -> object:
        chosen = job.variant in ("", bundle("v1").variant)
        return answers_wrongly(job) if chosen else checked(job)

    world.runner.script["check"] = [check]
    world.device = fingerprint(stack="1.30")
    world.run(30)
    slot = world.slot()
    assert slot is not None
    assert (slot.golden_ok, slot.serving, slot.rung) == (False, False, 1)
    assert slot.rung_reason.startswith("rung 0 gave way: it answers the golden")
    assert serves(world) == "v2"
    world.runner.script["check"] = [checked]
    world.device = fingerprint(stack="1.31")
    world.run(30)
    assert serves(world) == "v1"
    slot = world.slot()
    assert slot is not None
    assert (slot.rung, slot.rung_reason) == (0, "")


def test_a_changed_stack_that_takes_the_integer_kernels_away_is_served_from_a_rung(
    tmp_path: Path,
) -> None:
    """The answers are right still, but no longer by the kernels that the order asks for."""
    world = World(tmp_path)
    world.wish(laddered(gates=DeviceGates(integer_coverage_min=0.9)))
    world.finish("d-1")
    world.run(30)
    assert serves(world) == "v1"
    world.runner.script["check"] = [lambda job: replace(checked(job), integer_coverage=0.2)]
    world.device = fingerprint(stack="1.30")
    world.run(30)
    slot = world.slot()
    assert slot is not None
    assert (slot.golden_ok, slot.integer_coverage, slot.rung) == (True, 0.2, 1)
    assert "0.20 of its heavy operators run in integers" in slot.rung_reason
    assert serves(world) == "v2"


def test_only_the_portable_rung_is_left_when_the_others_no_longer_load(world: World) -> None:
    def check(job: CheckJob) -> object:
        portable = job.variant == bundle("v3").variant
        return checked(job) if portable else fails("runtime_failed", permanent=True)(job)

    world.runner.script["check"] = [check]
    world.device = fingerprint(stack="1.30")
    world.run(60)
    assert serves(world) == "v3"
    slot = world.slot()
    assert slot is not None
    assert [r.ready for r in slot.ladder] == [False, True]
    assert "it does not run" in slot.rung_reason


def test_a_rung_that_does_not_run_here_is_no_rung(tmp_path: Path) -> None:
    def check(job: CheckJob) -> object:
        return answers_wrongly(job) if job.variant == bundle("v2").variant else checked(job)

    world = World(tmp_path, {"check": [check]})
    world.wish(laddered())
    world.finish("d-1")
    world.run(200)
    slot = world.slot()
    assert slot is not None
    assert [(r.ready, r.reason) for r in slot.ladder] == [
        (False, "it answers the golden inputs wrongly (worst error 9): far off"),
        (True, ""),
    ]
    assert len([i for i in world.journal.known() if ".rung-1." in i]) == 5, "then it is left alone"
    world.readings = HOT
    world.run(100)
    assert serves(world) == "v1", "no rung that runs relieves heat"


def test_a_new_release_takes_the_old_ladder_away(world: World) -> None:
    world.wish(laddered(2, [replace(CHEAP, bundle=bundle("v4"))], name="v3"))
    world.finish("d-2")
    world.run(30)
    assert world.slots.names() == (SLOT, rung_slot(SLOT, 1))
    assert [facts.slot for facts in world.journal.slots()] == [SLOT, rung_slot(SLOT, 1)]
    world.readings = HOT
    world.run(5)
    assert serves(world) == "v4"
    world.wish(assignment("d-3", counter=3))
    world.finish("d-3")
    world.run(30)
    assert world.slots.names() == (SLOT,)
    assert serves(world) == "v1"
    assert world.slots.rung(SLOT) == 0


def test_an_order_goes_before_a_rung_that_waits_for_the_network(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(laddered())
    world.finish("d-1")
    world.runner.script["fetch"] = [fails("unavailable")]
    world.run(3000)
    assert world.journal.active() is not None, "no outage ends it"
    del world.runner.script["fetch"]
    world.wish(assignment("d-2", counter=2, name="v2"))
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    assert serves(world) == "v2"


def test_a_restart_keeps_the_rung_and_its_reason(world: World) -> None:
    world.readings = HOT
    world.run(5)
    since = world.slot()
    assert since is not None
    world.kill()
    world.readings = WARM
    world.boot_id = "another"
    world.boot()
    world.run(100)
    slot = world.slot()
    assert slot is not None
    assert (slot.rung, slot.rung_reason) == (1, since.rung_reason)
    assert slot.rung_since_unix == since.rung_since_unix
    assert serves(world) == "v2"
    world.readings = COOL
    world.run(PAUSE_S)
    assert serves(world) == "v1"


def test_a_rung_that_the_disk_lost_holds_up_nothing(world: World) -> None:
    world.slots.deactivate(rung_slot(SLOT, 1))
    world.readings = HOT
    world.run(20)
    assert serves(world) == "v1"
    world.wish(assignment("d-2", counter=2, name="v2"))
    assert world.finish("d-2").outcome is Outcome.COMMITTED


def test_a_journal_that_is_lost_finds_the_rung_on_the_disk(world: World) -> None:
    world.readings = HOT
    world.run(5)
    world.kill()
    for path in world.folders.data_dir.glob("journal.db*"):
        path.unlink()
    world.readings = WARM
    world.boot()
    world.run(30)
    slot = world.slot()
    assert slot is not None
    assert [rung.ready for rung in slot.ladder] == [True, True]
    assert (slot.variant, slot.counter) == (bundle("v1").variant, 1)
    assert serves(world) == "v1", "nothing says that it is hot, so the chosen one is back"


def test_an_order_cannot_name_a_rungs_slot(world: World) -> None:
    world.wish(assignment("d-9", counter=9, slot=rung_slot(SLOT, 1)))
    assert world.finish("d-9").outcome is Outcome.REJECTED
