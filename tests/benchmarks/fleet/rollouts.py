"""Thousands of rollouts: how often a good variant is halted, and how far a bad one gets.

Ours is the controller's own decision (`controller.domain.rollout.steps`), turn by turn, on records
that are kept here: what a store, signatures and messages would add is time, not another answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controller.domain import rollout as rules
from controller.domain.fleet import Cohort, Deployment, Device, Gate, Rollout, RolloutState
from fitment.core.deployment import Outcome, ReportedState
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.measurement import Energy, Latency, Measurement, ReadingStatus, Verdict
from tests.benchmarks.fleet.story import STORIES, Fate, Story, fates
from tests.benchmarks.fleet.threshold import ThresholdEngine

DEVICES = 200
COHORTS = 2
WAVES = (0.05, 0.25, 1.0)
GATE = Gate(max_failure_share=0.02)
TURN_S = 10.0
Found = dict[str, Any]


def measure(
    rollouts: int, say: Callable[[str], None], only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Every story with every engine."""
    found: dict[str, Any] = {"devices": DEVICES, "cohorts": COHORTS, "rollouts": rollouts}
    for story in (s for s in STORIES if not only or s.name.startswith(only)):
        engines: dict[str, list[Found]] = {"fitment": [], "threshold 2 %": [], "threshold 10 %": []}
        for seed in range(rollouts):
            drawn = fates(story, DEVICES, seed)
            engines["fitment"].append(ours(drawn))
            engines["threshold 2 %"].append(theirs(drawn, 0.02))
            engines["threshold 10 %"].append(theirs(drawn, 0.10))
        found[story.name] = {name: _told(rows, story) for name, rows in engines.items()}
        say(f"{story.name}: {found[story.name]}")
    return found


def ours(drawn: list[Fate]) -> Found:
    """One rollout as the controller decides it."""
    made = Rollout(
        id="r", release="r", state=RolloutState.RUNNING, created_at=0.0, waves=WAVES, gate=GATE
    )
    view = rules.View(rollout=made, targets=_fleet(len(drawn)), deployments={}, now=0.0)
    while view.rollout.state is RolloutState.RUNNING:
        taken = rules.steps(view)
        for step in taken:
            view = _after(view, step)
        if not taken:
            view = _later(view, drawn)
    exposure = rules.exposure(view)
    return {
        "halted": view.rollout.state is RolloutState.HALTED, "exposed": len(view.deployments),
        "seconds": view.now, "bound": exposure.bound, "likely": exposure.likely_bound,
    }  # fmt: skip


def _fleet(count: int) -> list[Device]:
    facet, devices = Facet(hash="h"), []
    for number in range(count):
        stack = Facet(hash=f"s{number % COHORTS}")
        seen = Fingerprint(chassis=facet, hardware=facet, stack=stack, condition=facet)
        reported = ReportedState(
            boot_id="b", agent_version="0", observed_generation=0, fingerprint=seen
        )
        devices.append(Device(name=f"{number:04}", profile="p", online=True, reported=reported))
    return devices


def _after(view: rules.View, step: rules.Step) -> rules.View:
    made = view.rollout
    match step:
        case rules.Admit():
            cohort = view.targets[int(step.device)].cohort
            begun = _begun(step.device, step.wave, view.now, cohort)
            return replace(view, deployments={**view.deployments, step.device: begun})
        case rules.NextWave():
            return replace(view, rollout=replace(made, wave=step.wave))
        case rules.Halt():
            return replace(view, rollout=replace(made, state=RolloutState.HALTED))
        case rules.Complete():
            return replace(view, rollout=replace(made, state=RolloutState.COMPLETED))
    raise AssertionError(step)


def _later(view: rules.View, drawn: list[Fate]) -> rules.View:
    """The next turn at which a device has ended; until then nothing would be decided."""
    now, deployments = view.now, dict(view.deployments)
    while True:
        now += TURN_S
        over = [
            d for d in deployments.values()
            if d.outcome is None and now - d.created_at >= drawn[int(d.device)].takes_s
        ]  # fmt: skip
        if over:
            deployments |= {d.device: _ended(d, drawn[int(d.device)], now) for d in over}
            return replace(view, deployments=deployments, now=now)


def _begun(name: str, wave: int, now: float, cohort: Cohort | None) -> Deployment:
    return Deployment(
        id=name, rollout="r", release="r", device=name, slot="s", variant="v", wave=wave,
        created_at=now, cohort=cohort,
    )  # fmt: skip


def _ended(deployment: Deployment, fate: Fate, now: float) -> Deployment:
    if fate.fails:
        return replace(deployment, outcome=Outcome.FAILED, ended_at=now)
    taken = Measurement(
        id="m", bundle="v", runtime="onnx", threads=1, verdict=Verdict.VALID,
        energy=Energy(status=ReadingStatus.UNAVAILABLE), latency=_latency(fate.ratio),
        baseline_latency=_latency(1.0),
    )  # fmt: skip
    return replace(deployment, outcome=Outcome.COMMITTED, ended_at=now, measurement=taken)


def _latency(ms: float) -> Latency:
    return Latency(count=300, mean_ms=ms, min_ms=ms, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms)


def theirs(drawn: list[Fate], errors_most: float) -> Found:
    """One rollout as thresholds decide it."""
    engine = ThresholdEngine(fates=drawn, waves=WAVES, errors_most=errors_most)
    now = 0.0
    while not (engine.halted or engine.done):
        engine.turn(now)
        now += TURN_S
    return {"halted": engine.halted, "exposed": len(engine.admitted), "seconds": now - TURN_S}


def _told(rows: list[Found], story: Story) -> dict[str, Any]:
    halts = [row for row in rows if row["halted"]]
    told: dict[str, Any] = {"halted": len(halts), "of": len(rows)}
    ends = halts if not story.good else [row for row in rows if not row["halted"]]
    if ends:
        seconds = sorted(row["seconds"] for row in ends)
        told["median_s"] = statistics.median(seconds)
    if halts:
        exposed = sorted(row["exposed"] for row in halts)
        told["exposed_median"] = statistics.median(exposed)
        if len(halts) >= 20:
            told["exposed_p95"] = exposed[int(0.95 * (len(exposed) - 1))]
        told["exposed_most"] = exposed[-1]
    bounded = [row for row in halts if "bound" in row]
    if bounded:
        told["within_bound"] = sum(row["exposed"] <= row["bound"] for row in bounded)
    return told
