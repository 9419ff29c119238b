"""Rollouts as rows: who is known, how their deployments stand, what happens next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from controller.domain import rollout as rules
from controller.domain.fleet import Deployment, Device, Gate, Rollout, RolloutState
from fitment.core.deployment import Outcome, ReportedState
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict

NOW = 1000.0


def device(name: str, *, online: bool = True, stack: str = "s") -> Device:
    facet = Facet(hash="h")
    seen = Fingerprint(chassis=facet, hardware=facet, stack=Facet(hash=stack), condition=facet)
    reported = ReportedState(
        boot_id="b", agent_version="1", observed_generation=0, fingerprint=seen
    )
    return Device(name=name, profile="p", online=online, reported=reported)


def ended(name: str, outcome: Outcome | None, *, created_at: float = NOW) -> Deployment:
    return Deployment(
        id=f"d-{name}", rollout="r", release="1", device=name, slot="s", variant="v", wave=0,
        created_at=created_at, outcome=outcome, ended_at=NOW if outcome else 0.0,
    )  # fmt: skip


def timed(*, ratio: float = 1.0, agreement: float = 1.0) -> Measurement:
    def latency(ms: float) -> Latency:
        return Latency(count=9, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms)

    return Measurement(
        id="m", bundle="v", runtime="onnx", threads=1, verdict=Verdict.VALID,
        energy=Energy(status=ReadingStatus.UNAVAILABLE), latency=latency(ratio),
        baseline_latency=latency(1.0), agreement=agreement,
    )  # fmt: skip


RUNNING = Rollout(
    id="r", release="1", state=RolloutState.RUNNING, created_at=0.0, waves=(0.1, 0.5, 1.0)
)
FIVE = tuple(device(n) for n in "abcde")
GOOD, BAD = Outcome.COMMITTED, Outcome.ROLLED_BACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    expected: Sequence[str]
    rollout: Rollout = RUNNING
    devices: tuple[Device, ...] = FIVE
    deployments: tuple[Deployment, ...] = ()


ROWS = (
    Row(name="the canary first", expected=["Admit a"]),
    Row(name="wait for the canary", deployments=(ended("a", None),), expected=[]),
    Row(name="open the next wave", deployments=(ended("a", GOOD),), expected=["NextWave 1"]),
    Row(
        name="admit the next wave",
        rollout=replace(RUNNING, wave=1),
        deployments=(ended("a", GOOD),),
        expected=["Admit b", "Admit c"],
    ),
    Row(name="a bad canary halts", deployments=(ended("a", BAD),), expected=["Halt"]),
    Row(
        name="a bad device halts in the middle of a wave",
        rollout=replace(RUNNING, wave=1),
        deployments=(ended("a", GOOD), ended("b", Outcome.FAILED)),
        expected=["Halt"],
    ),
    Row(
        name="an allowed share of failures",
        rollout=replace(RUNNING, wave=2, gate=Gate(max_failure_share=0.25)),
        deployments=(*(ended(n, GOOD) for n in "abcd"), ended("e", BAD)),
        expected=["Complete"],
    ),
    Row(
        name="superseded ones are no failures",
        deployments=(ended("a", Outcome.SUPERSEDED),),
        expected=["Admit b"],  # they say nothing either, so another canary is needed
    ),
    Row(
        name="each cohort has its own canary, and a wave's share holds for cohorts too",
        devices=(device("a"), device("x", stack="t"), device("y", stack="u")),
        expected=["Admit a"],
    ),
    Row(
        name="the next wave begins with the next cohort's canary",
        rollout=replace(RUNNING, wave=1),
        devices=(device("a"), device("x", stack="t"), device("y", stack="u")),
        deployments=(ended("a", GOOD),),
        expected=["Admit x"],
    ),
    Row(
        name="a cohort that is offline gives its turn to the next",
        devices=(device("a", online=False), device("x", stack="t"), device("y", stack="u")),
        expected=["Admit x"],
    ),
    Row(
        name="an offline canary is replaced by the next device",
        devices=(device("a", online=False), *FIVE[1:]),
        expected=["Admit b"],
    ),
    Row(
        name="nobody is online",
        devices=tuple(replace(d, online=False) for d in FIVE),
        expected=[],
    ),
    Row(
        name="offline devices come in when they are back",
        rollout=replace(RUNNING, wave=2),
        deployments=tuple(ended(n, GOOD) for n in "abcd"),
        expected=["Admit e"],
    ),
    Row(
        name="who was away at the end is admitted after it",
        rollout=replace(RUNNING, wave=2, state=RolloutState.COMPLETED, pending=("e",)),
        devices=(*FIVE, device("f")),
        deployments=tuple(ended(n, GOOD) for n in "abcd"),
        expected=["Admit e"],
    ),
    Row(
        name="a late joiner enters the wave that runs",
        rollout=replace(RUNNING, wave=1),
        devices=(*FIVE, device("f"), device("g")),
        deployments=tuple(ended(n, GOOD) for n in "abc"),
        expected=["Admit d"],
    ),
    Row(
        name="a late cohort begins with a canary, whatever the wave",
        rollout=replace(RUNNING, wave=2),
        devices=(*FIVE, *(device(n, stack="t") for n in "xyz")),
        deployments=tuple(ended(n, GOOD) for n in "abcde"),
        expected=["Admit x"],
    ),
    Row(
        name="a late cohort catches up once its canary ended well",
        rollout=replace(RUNNING, wave=1),
        devices=(*FIVE, *(device(n, stack="t") for n in "xyz")),
        deployments=tuple(ended(n, GOOD) for n in "abcx"),
        expected=["Admit y"],
    ),
    Row(
        name="one cohort's failure halts for all",
        devices=(*FIVE, device("x", stack="t")),
        deployments=(ended("a", GOOD), ended("x", Outcome.FAILED)),
        expected=["Halt"],
    ),
    Row(
        name="below the minimum sample the gate waits for the wave's end",
        rollout=replace(RUNNING, wave=1, gate=Gate(min_sample=5)),
        deployments=(ended("a", GOOD), ended("b", BAD), ended("c", None)),
        expected=[],
    ),
    Row(
        name="and is judged there all the same",
        rollout=replace(RUNNING, wave=1, gate=Gate(min_sample=5)),
        deployments=(ended("a", GOOD), ended("b", BAD), ended("c", GOOD)),
        expected=["Halt"],
    ),
    Row(
        name="acknowledged failures are judged no more",
        rollout=replace(RUNNING, wave=1, acknowledged=("d-b",)),
        deployments=(ended("a", GOOD), ended("b", BAD), ended("c", GOOD)),
        expected=["NextWave 2"],
    ),
    Row(
        name="slower than its own baseline",
        deployments=(replace(ended("a", GOOD), measurement=timed(ratio=1.2)),),
        expected=["Halt"],
    ),
    Row(
        name="hardly slower than its own baseline",
        deployments=(replace(ended("a", GOOD), measurement=timed(ratio=1.05)),),
        expected=["NextWave 1"],
    ),
    Row(
        name="answers differ",
        rollout=replace(RUNNING, gate=Gate(agreement_min=0.95)),
        deployments=(replace(ended("a", GOOD), measurement=timed(agreement=0.9)),),
        expected=["Halt"],
    ),
    Row(
        name="a deadline holds after a halt too",
        rollout=replace(RUNNING, state=RolloutState.HALTED),
        deployments=(ended("a", BAD), ended("b", None, created_at=NOW - 4000.0)),
        expected=["TimeOut d-b"],
    ),
    Row(
        name="a device that timed out is a failure",
        deployments=(ended("a", Outcome.TIMED_OUT),),
        expected=["Halt"],
    ),
    Row(name="nobody is left", devices=(), expected=["Complete"]),
    Row(
        name="offline devices do not hold up the end",
        rollout=replace(RUNNING, wave=2),
        devices=(*FIVE[:4], device("e", online=False)),
        deployments=tuple(ended(n, GOOD) for n in "abcd"),
        expected=["Complete never reached: e"],
    ),
    Row(
        name="a silent device times out",
        deployments=(ended("a", None, created_at=NOW - 4000.0),),
        expected=["TimeOut d-a"],
    ),
    Row(
        name="soak first",
        rollout=replace(RUNNING, soak_s=60.0),
        deployments=(ended("a", GOOD),),
        expected=[],
    ),
    Row(name="paused", rollout=replace(RUNNING, state=RolloutState.PAUSED), expected=[]),
)


def words(step: rules.Step) -> str:
    match step:
        case rules.Admit():
            return f"Admit {step.device}"
        case rules.NextWave():
            return f"NextWave {step.wave}"
        case rules.TimeOut():
            return f"TimeOut {step.deployment}"
        case rules.Halt():
            return "Halt"
        case rules.Complete():
            away = step.reason.partition("; ")[2]
            return f"Complete {away}".strip()
        case rules.Ask():
            return "Ask"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row) -> None:
    view = rules.View(
        rollout=row.rollout, targets=row.devices, now=NOW,
        deployments={d.device: d for d in row.deployments},
    )  # fmt: skip
    assert [words(step) for step in rules.steps(view)] == list(row.expected)


@pytest.mark.parametrize("seed", range(30))
def test_no_device_is_admitted_before_its_gate_and_every_rollout_ends(seed: int) -> None:
    """Devices come and go at random; a cohort never has more admitted than its wave allows."""
    chance = random.Random(seed)
    devices = [device(str(n), stack=chance.choice("st")) for n in range(chance.randint(1, 30))]
    made, deployments = RUNNING, {}
    for now in range(2000):
        devices = [replace(d, online=chance.random() < 0.8) for d in devices]
        view = rules.View(rollout=made, targets=devices, deployments=deployments, now=NOW + now)
        steps = rules.steps(view)
        for step in steps:
            if isinstance(step, rules.Admit):
                assert step.device not in deployments
                deployments[step.device] = ended(step.device, None, created_at=NOW + now)
            elif isinstance(step, rules.NextWave):
                assert step.wave == made.wave + 1
                assert all(d.outcome is GOOD for d in deployments.values())
                made = replace(made, wave=step.wave)
            else:
                assert isinstance(step, rules.Halt | rules.Complete)
                halted = isinstance(step, rules.Halt)
                assert halted == any(d.outcome is BAD for d in deployments.values())
                return
        for members in view.cohorts().values():
            admitted = sum(d.name in deployments for d in members)
            assert admitted <= rules.quota(len(members), made.waves[made.wave])
        begun = sum(any(d.name in deployments for d in m) for m in view.cohorts().values())
        assert begun <= rules.quota(len(view.cohorts()), made.waves[made.wave])
        open_ones = [n for n, d in deployments.items() if d.outcome is None]
        if not steps and open_ones:
            outcome = BAD if chance.random() < 0.03 else GOOD
            deployments[open_ones[0]] = ended(open_ones[0], outcome)
    pytest.fail("it never ended")


@pytest.mark.parametrize("sample", [2, 40])
def test_small_samples_say_that_they_are_no_statistics(sample: int) -> None:
    devices = tuple(device(str(n)) for n in range(sample))
    deployments = {d.name: ended(d.name, GOOD) for d in devices}
    view = rules.View(
        rollout=replace(RUNNING, wave=2), targets=devices, deployments=deployments, now=NOW
    )
    (step,) = rules.steps(view)
    assert isinstance(step, rules.Complete)
    assert ("not statistical" in step.reason) is (sample == 2)
