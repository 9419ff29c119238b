"""Where a deployment fails × which way it goes × how it ends × what serves afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.config import Settings
from agent.domain.trial import ANSWER_S
from agent.testing import DEFAULTS, Behaviour, answers_wrongly, benchmarked, checked, fails, hang
from fitment.core.deployment import CalibrationMode, CalibrationPlan, DeviceGates, Outcome
from fitment.core.telemetry import CommandKind
from tests.scenarios.agent_world import SLOT, World, assignment, bundle, fingerprint

FORWARD = (
    "fetching", "verifying", "staging", "calibrating", "benchmarking", "judging", "trial",
    "committing", "reporting",
)  # fmt: skip
BACK = ("rolling_back", "reporting")


def way(last: str) -> tuple[str, ...]:
    """Forward to ``last``, then back."""
    return FORWARD[: FORWARD.index(last) + 1] + BACK


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    script: Mapping[str, Sequence[Behaviour]] = field(default_factory=dict)
    gates: DeviceGates = field(default_factory=DeviceGates)
    chain: tuple[str, ...]
    outcome: Outcome
    serves: str
    reason: str = ""
    first: bool = False  # nothing was committed before


def arrives(then: Behaviour) -> Behaviour:
    """Some more bytes, and then this."""

    def behave(job: Any) -> Any:
        target = Path(job.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(b"more")
        return hang if then is hang else then(job)

    return behave


SLOW = partial(benchmarked, p50_ms=4.0)

ROWS = (
    Row(name="all is well", chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2"),
    Row(name="the first one ever", chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2",
        first=True),
    Row(name="fetch fails for good", script={"fetch": [fails("not_found", permanent=True)]},
        chain=way("fetching"), outcome=Outcome.FAILED, serves="v1", reason="not_found"),
    Row(name="fetch fails four times, then not",
        script={"fetch": [*[fails("stalled")] * 4, lambda job: _ok("fetch", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="stalled"),
    Row(name="fetch fails five times", script={"fetch": [fails("stalled")]},
        chain=way("fetching"), outcome=Outcome.FAILED, serves="v1", reason="stalled"),
    Row(name="an outage of minutes burns no attempt",
        script={"fetch": [*[fails("unavailable")] * 20, lambda job: _ok("fetch", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="unavailable"),
    Row(name="a busy server burns no attempt",
        script={"fetch": [*[fails("busy", retry_after_s=5.0)] * 20, lambda j: _ok("fetch", j)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2"),
    Row(name="an outage without end", script={"fetch": [fails("unavailable")]},
        chain=way("fetching"), outcome=Outcome.TIMED_OUT, serves="v1", reason="deadline"),
    Row(name="fetch hangs", script={"fetch": [hang]},
        chain=way("fetching"), outcome=Outcome.TIMED_OUT, serves="v1", reason="took longer"),
    Row(name="a line that stalls again and again, and brings something each time",
        script={"fetch": [*[arrives(fails("stalled"))] * 20, lambda job: _ok("fetch", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="stalled"),
    Row(name="four stalls, some bytes, four stalls",
        script={"fetch": [*[fails("stalled")] * 4, arrives(fails("stalled")),
                          *[fails("stalled")] * 4, lambda job: _ok("fetch", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="stalled"),
    Row(name="a transfer that takes longer than a step may",
        script={"fetch": [arrives(hang), lambda job: _ok("fetch", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="took longer"),
    Row(name="a forged order", script={"verify": [fails("order", permanent=True)]},
        chain=way("verifying"), outcome=Outcome.FAILED, serves="v1", reason="order"),
    Row(name="an order for another device",
        script={"verify": [fails("not_for_me", permanent=True)]},
        chain=way("verifying"), outcome=Outcome.REJECTED, serves="v1", reason="not_for_me"),
    Row(name="a counter that goes back", script={"verify": [fails("rollback", permanent=True)]},
        chain=way("verifying"), outcome=Outcome.REJECTED, serves="v1", reason="rollback"),
    Row(name="a damaged file is fetched once more",
        script={"verify": [fails("digest"), lambda job: _ok("verify", job)]},
        chain=("fetching", "verifying", *FORWARD), outcome=Outcome.COMMITTED, serves="v2"),
    Row(name="a file that stays damaged", script={"verify": [fails("digest")]},
        chain=("fetching", "verifying", "fetching", "verifying", *BACK),
        outcome=Outcome.FAILED, serves="v1", reason="digest"),
    Row(name="a runtime that is missing",
        script={"stage": [fails("runtime_missing", permanent=True)]},
        chain=way("staging"), outcome=Outcome.REJECTED, serves="v1", reason="runtime_missing"),
    Row(name="no room to unpack", script={"stage": [fails("disk_full")]},
        chain=way("staging"), outcome=Outcome.FAILED, serves="v1", reason="disk_full"),
    Row(name="wrong answers before anything is activated", script={"check": [answers_wrongly]},
        chain=way("staging"), outcome=Outcome.FAILED, serves="v1", reason="golden"),
    Row(name="the benchmark dies every time", script={"benchmark": [fails("died")]},
        chain=way("benchmarking"), outcome=Outcome.FAILED, serves="v1", reason="died"),
    Row(name="the benchmark dies once",
        script={"benchmark": [fails("died"), lambda job: _ok("benchmark", job)]},
        chain=FORWARD, outcome=Outcome.COMMITTED, serves="v2", reason="died"),
    Row(name="the benchmark hangs", script={"benchmark": [hang]},
        chain=way("benchmarking"), outcome=Outcome.TIMED_OUT, serves="v1", reason="took longer"),
    Row(name="slower than what runs", script={"benchmark": [SLOW]},
        gates=DeviceGates(latency_ratio_max=1.1),
        chain=way("judging"), outcome=Outcome.ROLLED_BACK, serves="v1", reason="ratio"),
    Row(name="slower than the budget, the first one", script={"benchmark": [SLOW]},
        gates=DeviceGates(latency_p95_max_ms=3.0), first=True,
        chain=way("judging"), outcome=Outcome.ROLLED_BACK, serves="", reason="p95"),
    Row(name="wrong answers on trial", script={"check": [checked, answers_wrongly]},
        chain=way("trial"), outcome=Outcome.ROLLED_BACK, serves="v1", reason="on trial"),
    Row(name="wrong answers on trial, the first one", script={"check": [checked, answers_wrongly]},
        first=True, chain=way("trial"), outcome=Outcome.ROLLED_BACK, serves="", reason="on trial"),
    Row(name="the check dies on trial", script={"check": [checked, fails("died")]},
        chain=way("trial"), outcome=Outcome.ROLLED_BACK, serves="v1", reason="died"),
    Row(name="the check hangs on trial", script={"check": [checked, hang]},
        chain=way("trial"), outcome=Outcome.TIMED_OUT, serves="v1", reason="took longer"),
)  # fmt: skip


def _ok(worker: str, job: object) -> object:
    return DEFAULTS[worker](job)


def committed(world: World, name: str = "v1") -> None:
    """Bring a variant onto the device in the ordinary way."""
    script, world.runner.script = world.runner.script, {}
    world.wish(assignment(f"d-{name}", name=name))
    assert world.finish(f"d-{name}").outcome is Outcome.COMMITTED
    world.runner.script = script


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(row: Row, tmp_path: Path) -> None:
    world = World(tmp_path, {name: list(acts) for name, acts in row.script.items()})
    if not row.first:
        committed(world)
    world.wish(assignment("d-2", name="v2", counter=2, gates=row.gates))
    report = world.finish("d-2")
    assert report.outcome is row.outcome, report.reasons
    assert tuple(world.states("d-2")) == row.chain
    assert world.serves() == row.serves
    assert row.reason in " ".join(report.reasons)
    slot = world.slot()
    expected = bundle(row.serves).variant if row.serves else ""
    assert (slot.variant if slot else "") == expected
    assert slot is None or slot.counter == (2 if row.serves == "v2" else 1)


def test_the_end_is_reported_until_the_controller_no_longer_asks(tmp_path: Path) -> None:
    world = World(tmp_path)
    order = assignment("d-1")
    world.wish(order)
    world.run(10)
    world.wish(order)  # a newer generation that still names it, as when it was already on its way
    world.run(2)
    assert world.report("d-1").outcome is Outcome.COMMITTED
    world.wish()
    world.run(2)
    assert world.reported.deployments == ()
    world.wish(order)  # an old message starts nothing again
    world.run(5)
    assert world.runner.names().count("fetch") == 1
    assert world.reported.observed_generation == 4


def test_a_controller_of_yesterday_is_told_again_how_it_ended(tmp_path: Path) -> None:
    """Its order is no replay to be ignored in silence: it would wait for an answer in vain."""
    world = World(tmp_path)
    order = assignment("d-1")
    world.wish(order)
    world.run(10)
    world.wish()
    world.run(2)
    assert world.reported.deployments == ()  # the controller knew
    world.generation = 0
    world.wish(order)
    world.run(5)
    (told,) = world.reported.deployments
    assert (told.deployment, told.outcome) == ("d-1", Outcome.COMMITTED)
    assert world.runner.names().count("fetch") == 1
    assert world.reported.observed_generation == 2  # and not 1, which is the last that came
    world.kill()
    world.boot()
    world.wish()
    world.run(2)
    assert world.reported.deployments == ()
    assert world.reported.observed_generation == 2


def test_a_newer_assignment_of_the_slot_supersedes(tmp_path: Path) -> None:
    world = World(tmp_path, {"benchmark": [hang, lambda job: _ok("benchmark", job)]})
    world.wish(assignment("d-1"))
    world.until("benchmarking")
    world.steps(3)
    world.wish(assignment("d-2", name="v2", counter=2))
    world.run(10)
    assert world.report("d-1").outcome is Outcome.SUPERSEDED
    assert world.report("d-2").outcome is Outcome.COMMITTED
    assert world.serves() == "v2"
    assert world.runner.killed == 1


def test_an_assignment_that_is_gone_is_cancelled(tmp_path: Path) -> None:
    world = World(tmp_path, {"benchmark": [hang]})
    world.wish(assignment("d-1"))
    world.until("benchmarking")
    world.wish()
    world.run(5)
    assert world.report("d-1").outcome is Outcome.CANCELLED
    assert world.serves() == ""


def test_a_command_cancels_and_late_ones_do_not(tmp_path: Path) -> None:
    world = World(tmp_path, {"benchmark": [hang]})
    world.wish(assignment("d-1"))
    world.until("benchmarking")
    world.command(CommandKind.CANCEL, "d-1", deadline_unix_ns=1)
    world.command(CommandKind.CANCEL, "another")
    world.run(2)
    assert world.report("d-1").outcome is None
    world.command(CommandKind.CANCEL, "d-1")
    world.run(2)
    assert world.report("d-1").outcome is Outcome.CANCELLED


def test_a_slot_that_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1", slot="../../etc"), assignment("d-2"))
    world.run(5)
    assert world.report("d-1").outcome is Outcome.REJECTED
    assert world.report("d-2").outcome is Outcome.COMMITTED


def test_without_a_runtime_a_device_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.device = type(world.device)(
        chassis=world.device.chassis, hardware=world.device.hardware,
        stack=world.device.chassis, condition=world.device.condition,
    )  # fmt: skip
    world.wish(assignment("d-1"))
    world.run(5)
    assert world.report("d-1").outcome is Outcome.REJECTED
    assert "no runtime" in world.report("d-1").reasons[0]


RANGE = CalibrationPlan(mode=CalibrationMode.RANGE)


@pytest.mark.parametrize(
    ("samples", "script", "applied", "reason"),
    [
        (True, {}, True, "drift"),
        (False, {}, False, "[samples]"),
        (True, {"calibrate": [fails("crashed", permanent=True)]}, False, "it failed"),
        (True, {"calibrate": [fails("died")]}, False, "it failed"),
    ],
    ids=["applied", "no samples", "fails for good", "dies"],
)
def test_calibration_helps_and_is_never_needed(
    samples: bool, script: dict[str, list[Behaviour]], applied: bool, reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "one.npy").write_bytes(b"")
    settings = Settings(samples={SLOT: folder} if samples else {})
    world = World(tmp_path / "device", script, settings)
    world.wish(assignment("d-1", calibration=RANGE))
    world.run(60)
    report = world.report("d-1")
    assert report.outcome is Outcome.COMMITTED
    assert report.calibration is not None
    assert report.calibration.applied is applied
    assert reason in report.calibration.reason
    slot = world.slot()
    assert slot is not None
    assert slot.calibration == ("overlay-1" if applied else "")
    jobs = dict(world.runner.started)
    assert bool(jobs["benchmark"].overlay) is applied
    assert ("submit" in jobs) is applied
    if applied:
        assert jobs["submit"].overlay == str(world.slots.overlay(SLOT, "a"))


def test_the_next_benchmark_has_the_overlay_of_what_runs(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "one.npy").write_bytes(b"")
    world = World(tmp_path / "device", None, Settings(samples={SLOT: folder}))
    world.wish(assignment("d-1", calibration=RANGE))
    world.run(10)
    world.wish(assignment("d-2", name="v2", counter=2))
    world.run(10)
    job = dict(world.runner.started)["benchmark"]
    assert job.baseline_folder == str(world.slots.folder(SLOT, "a"))
    assert job.baseline_overlay == str(world.slots.overlay(SLOT, "a"))
    assert job.overlay == ""


def test_a_trial_lasts_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1", trial_s=35.0))
    world.until("trial")
    world.run(30)
    assert world.report("d-1").state.value == "trial"
    assert world.serves() == "v1"
    world.run(10)
    assert world.report("d-1").outcome is Outcome.COMMITTED
    assert world.runner.names().count("check") == 1 + 5


def test_quarantine_after_failures_in_a_row_and_another_stack_is_another_chance(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, {"benchmark": [fails("died", permanent=True)]})
    for number in range(6):
        world.wish(assignment(f"d-{number}"))
        world.run(5)
    assert world.report("d-4").outcome is Outcome.FAILED
    assert world.report("d-5").outcome is Outcome.REJECTED
    assert "quarantine" in " ".join(world.reported.notes)
    assert world.reported.quarantined == (f"{SLOT}/{world.report('d-4').variant}",)
    world.device = fingerprint("1.21")
    world.run(20)
    assert world.reported.quarantined == ()
    world.wish(assignment("d-6"))
    world.run(5)
    assert world.report("d-6").outcome is Outcome.FAILED


def test_a_trickle_is_held_to_the_deadline_of_the_deployment(tmp_path: Path) -> None:
    world = World(tmp_path, {"fetch": [arrives(fails("stalled"))]})
    world.wish(assignment("d-1", deadline_s=60.0))
    report = world.finish("d-1")
    assert report.outcome is Outcome.TIMED_OUT
    assert "deadline of 60 s" in report.reasons[-1]
    assert len(world.runner.names()) > 5
    assert world.journal.quarantine() == {}


def test_no_outage_and_no_bad_line_fills_the_quarantine(tmp_path: Path) -> None:
    """The variant is not to blame for what never arrived."""
    world = World(tmp_path)
    for number, code in enumerate(["unavailable", "stalled", "busy", "digest"] * 2):
        world.runner.script = {"fetch": [fails(code)]}
        world.wish(assignment(f"d-{number}", deadline_s=60.0))
        assert world.finish(f"d-{number}").outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    assert world.journal.quarantine() == {}
    world.runner.script = {}
    world.wish(assignment("d-good"))
    assert world.finish("d-good").outcome is Outcome.COMMITTED


def test_nothing_is_left_of_a_deployment_that_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    committed(world)
    world.runner.script = {"benchmark": [SLOW]}
    gates = DeviceGates(latency_ratio_max=1.1)
    world.wish(assignment("d-2", name="v2", counter=2, gates=gates))
    world.run(10)
    assert not list((tmp_path / "work" / "archives").iterdir())
    assert not world.slots.folder(SLOT, "b").exists()


@pytest.mark.parametrize("answers", ["later", "never"])
def test_a_server_that_says_nothing_is_waited_for_before_the_switch(
    tmp_path: Path, answers: str
) -> None:
    """A socket that nobody answers at: a server that starts anew, or one that was killed."""
    world = World(tmp_path)
    world.folders.serving.mkdir()
    path = world.folders.serving / "digits.sock"
    path.touch()
    world.wish(assignment("d-1"))
    world.run(ANSWER_S / 2)
    assert world.states("d-1")[-1] == "judging"
    assert "does not answer" in " ".join(world.reported.notes)
    if answers == "later":
        path.unlink()
    assert world.finish("d-1", limit_s=4 * ANSWER_S).outcome is Outcome.COMMITTED


def test_a_server_between_two_lives_is_waited_for(tmp_path: Path) -> None:
    """Its socket is gone for a moment while it starts anew: that is no slot without a server."""
    world = World(tmp_path)
    socket = world.folders.serving / f"{SLOT}.sock"
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.touch()
    world.steps(1)
    socket.unlink()
    began_s = world.clock.now_s
    world.wish(assignment("d-1"))
    assert world.finish("d-1").outcome is Outcome.COMMITTED
    waited_s = world.clock.now_s - began_s
    assert waited_s >= ANSWER_S
    world.run(ANSWER_S)
    began_s = world.clock.now_s
    world.wish(assignment("d-2", name="v2", counter=2))
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    assert world.clock.now_s - began_s < waited_s  # by now it is known that there is none
