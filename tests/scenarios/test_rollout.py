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
        expected=["NextWave 1"],
    ),
    Row(
        name="each cohort has its own canary",
        devices=(device("a"), device("x", stack="t")),
        expected=["Admit a", "Admit x"],
    ),
    Row(
        name="an offline canary is waited for",
        devices=(device("a", online=False), *FIVE[1:]),
        expected=[],
    ),
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row) -> None:
    view = rules.View(
        rollout=row.rollout, targets=row.devices, now=NOW,
        deployments={d.device: d for d in row.deployments},
    )  # fmt: skip
    assert [words(step) for step in rules.steps(view)] == list(row.expected)


@pytest.mark.parametrize("seed", range(30))
def test_no_device_is_admitted_before_its_wave_and_every_rollout_ends(seed: int) -> None:
    chance = random.Random(seed)
    devices = tuple(device(str(n), stack=chance.choice("st")) for n in range(chance.randint(1, 30)))
    waves = rules.wave_of(devices, RUNNING.waves)
    made, deployments = RUNNING, {}
    for _ in range(500):
        view = rules.View(rollout=made, targets=devices, deployments=deployments, now=NOW)
        steps = rules.steps(view)
        for step in steps:
            if isinstance(step, rules.Admit):
                assert waves[step.device] <= made.wave
                deployments[step.device] = ended(step.device, None)
            elif isinstance(step, rules.NextWave):
                assert all(d.outcome is GOOD for d in deployments.values())
                made = replace(made, wave=step.wave)
            else:
                assert isinstance(step, rules.Halt | rules.Complete)
                halted = isinstance(step, rules.Halt)
                assert halted == any(d.outcome is BAD for d in deployments.values())
                return
        open_ones = [n for n, d in deployments.items() if d.outcome is None]
        if not steps and open_ones:
            outcome = BAD if chance.random() < 0.03 else GOOD
            deployments[open_ones[0]] = ended(open_ones[0], outcome)
    pytest.fail("it never ended")
