"""Waves and gates: what a rollout does next, as a pure function of what is known.

Each cohort has a canary of its own (its first device, in the first wave) and is judged on its
own. Devices that are offline neither hold up a wave nor count as success: they wait, are
admitted when they come back while the rollout runs, and are named at its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Deployment, Device, Rollout, RolloutState
from fitment.core.deployment import Outcome

_BAD = frozenset({Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.REJECTED})
_VOID = frozenset({Outcome.SUPERSEDED, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Give one device its deployment."""

    device: str
    wave: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOut:
    """End the deployment of a device that fell silent."""

    deployment: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NextWave:
    """The gate held."""

    wave: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """A gate failed; nothing more is admitted."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """Every device that could be reached has ended."""

    reason: str


Step = Admit | TimeOut | NextWave | Halt | Complete


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision looks at; ``targets`` in admission order."""

    rollout: Rollout
    targets: Sequence[Device]
    deployments: Mapping[str, Deployment]  # device name -> its deployment in this rollout
    now: float


def selects(selector: Mapping[str, str], device: Device) -> bool:
    """Whether a selector (``name``, ``profile`` or a label, all by equality) takes a device."""
    facts = {**device.labels, "name": device.name, "profile": device.profile}
    return not device.revoked and all(facts.get(key) == value for key, value in selector.items())


def wave_of(targets: Sequence[Device], shares: Sequence[float]) -> dict[str, int]:
    """Device name to wave: within each cohort the first ``ceil(share*n)`` devices, at least one."""
    cohorts: dict[str, list[Device]] = {}
    for device in targets:
        key = device.cohort.key if device.cohort else ""
        cohorts.setdefault(key, []).append(device)
    waves: dict[str, int] = {}
    for members in cohorts.values():
        bounds = [max(1, math.ceil(share * len(members) - 1e-9)) for share in shares]
        for index, device in enumerate(members):
            reached = [wave for wave, bound in enumerate(bounds) if index < bound]
            waves[device.name] = reached[0] if reached else len(shares) - 1
    return waves


def steps(view: View) -> tuple[Step, ...]:
    """What to do now; empty when there is nothing to do but to wait."""
    if view.rollout.state is not RolloutState.RUNNING:
        return _silent(view) if view.rollout.state is RolloutState.PAUSED else ()
    failed = _failed_gate(view)
    if failed:
        return (Halt(reason=failed),)
    silent = _silent(view)
    if silent:
        return silent
    waves = wave_of(view.targets, view.rollout.waves)
    admitted = _admissions(view, waves)
    if admitted:
        return admitted
    return _advance(view)


def _silent(view: View) -> tuple[Step, ...]:
    return tuple(
        TimeOut(
            deployment=deployment.id,
            reason=f"no end was reported within {view.rollout.deadline_s:.0f} s",
        )
        for deployment in view.deployments.values()
        if deployment.outcome is None and view.now - deployment.created_at > view.rollout.deadline_s
    )


def _admissions(view: View, waves: Mapping[str, int]) -> tuple[Step, ...]:
    return tuple(
        Admit(device=device.name, wave=waves[device.name])
        for device in view.targets
        if waves[device.name] <= view.rollout.wave
        and device.name not in view.deployments
        and device.online
    )


def _advance(view: View) -> tuple[Step, ...]:
    rollout = view.rollout
    current = [d for d in view.deployments.values() if d.outcome is None]
    if current:
        return ()
    ended = [d.ended_at for d in view.deployments.values()]
    if ended and view.now - max(ended) < rollout.soak_s:
        return ()
    if not view.deployments and rollout.wave == 0:
        return ()  # not even a canary was there yet
    words = _gate_words(view)
    if rollout.wave < len(rollout.waves) - 1:
        return (NextWave(wave=rollout.wave + 1, reason=words),)
    away = [d.name for d in view.targets if d.name not in view.deployments]
    if away:
        words += f"; never reached: {', '.join(away)}"
    return (Complete(reason=words),)


def _failed_gate(view: View) -> str:
    """The first gate that does not hold, in words; empty when all do."""
    gate = view.rollout.gate
    for cohort, ended in _by_cohort(view).items():
        judged = [d for d in ended if d.outcome not in _VOID]
        if len(judged) < gate.min_sample:
            continue
        bad = [d for d in judged if d.outcome in _BAD]
        share = len(bad) / len(judged)
        if share > gate.max_failure_share:
            why = f": {bad[0].reasons[0]}" if bad[0].reasons else ""
            return (
                f"cohort {cohort}: {len(bad)} of {len(judged)} ended"
                f" {bad[0].outcome.value if bad[0].outcome else ''}"
                f" (allowed share {gate.max_failure_share:g}); {bad[0].device}{why}"
            )
        slow = _too_slow(judged, gate.latency_ratio_max)
        if slow:
            return f"cohort {cohort}: {slow}"
    return ""


def _too_slow(judged: Sequence[Deployment], limit: float | None) -> str:
    if limit is None:
        return ""
    ratios = sorted(r for r in (_ratio(d) for d in judged) if r is not None)
    if not ratios:
        return ""
    median = ratios[len(ratios) // 2]
    if median <= limit:
        return ""
    return f"median latency is {median:.2f} times the device's own baseline (allowed {limit:g})"


def _ratio(deployment: Deployment) -> float | None:
    taken = deployment.measurement
    if taken is None or taken.latency is None or taken.baseline_latency is None:
        return None
    return taken.latency.p50_ms / taken.baseline_latency.p50_ms


def _by_cohort(view: View) -> dict[str, list[Deployment]]:
    cohorts: dict[str, list[Deployment]] = {}
    for device in view.targets:
        deployment = view.deployments.get(device.name)
        if deployment is not None and deployment.outcome is not None:
            key = device.cohort.key if device.cohort else device.name
            cohorts.setdefault(key, []).append(deployment)
    return cohorts


def _gate_words(view: View) -> str:
    ended = [d for d in view.deployments.values() if d.outcome is not None]
    good = sum(d.outcome is Outcome.COMMITTED for d in ended)
    words = f"{good} of {len(ended)} committed"
    if len(ended) < 30:  # below it a share says little; each device's own A/B is what was judged
        words += " (not statistical: judged by each device's own comparison)"
    return words
