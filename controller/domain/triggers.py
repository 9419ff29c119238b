"""When to fit again, and the reason in words.

Looked at as a level, not an edge: what a device *is* beside what its running variant was
admitted for. So nothing is lost in a cool-down or a restart. The stop rule: a trigger that was
closed is the answer for that deployment in that cohort, whatever came of it; the loop does not
ask the same question twice.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Budget, Cohort, Deployment, Device, Trigger, TriggerKind
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.measurement import Measurement, ReadingStatus, Verdict

COOL_DOWN_S = 30.0
"""Pause after a device's trigger closed before it may raise another for the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A change that asks for a fit."""

    kind: TriggerKind
    reason: str


class Answer(enum.Enum):
    """Whether a finding may become a trigger."""

    OPEN = "open"  # yes, now
    LATER = "later"  # the device's last trigger closed a moment ago
    ANSWERED = "answered"  # one is open, or was closed, for just this


def moved(device: Device, running: Deployment) -> Finding | None:
    """What a device that left the cohort of its running variant asks for."""
    if running.cohort is None or running.fingerprint is None or device.reported is None:
        return None
    if device.cohort is None or device.cohort == running.cohort:
        return None
    return changed(running.fingerprint, device.reported.fingerprint)


def changed(before: Fingerprint, after: Fingerprint) -> Finding | None:
    """What a new fingerprint asks for; chassis and condition ask for nothing."""
    if before.hardware.hash != after.hardware.hash:
        words = differences(before.hardware, after.hardware)
        return Finding(kind=TriggerKind.HARDWARE_CHANGED, reason=f"hardware changed: {words}")
    if before.stack.hash != after.stack.hash:
        words = differences(before.stack, after.stack)
        return Finding(kind=TriggerKind.STACK_CHANGED, reason=f"stack changed: {words}")
    return None


def differences(before: Facet, after: Facet) -> str:
    """Which facts differ, from what to what."""
    names = sorted(set(before.facts) | set(after.facts))
    parts = [
        f"{name} {_shown(before.facts, name)} → {_shown(after.facts, name)}"
        for name in names
        if before.facts.get(name) != after.facts.get(name)
    ]
    return ", ".join(parts) or "the hash alone"


def _shown(facts: Mapping[str, str], name: str) -> str:
    value = facts.get(name)
    return "absent" if value is None else f"'{value}'"


def missed(measurement: Measurement | None, budget: Budget) -> Finding | None:
    """What an undisturbed measurement outside of the budget asks for."""
    if measurement is None or measurement.verdict is not Verdict.VALID:
        return None
    latency, energy = measurement.latency, measurement.energy
    metered = energy.status is ReadingStatus.MEASURED
    limits = (
        ("p95 latency", latency.p95_ms if latency else None, budget.latency_p95_max_ms, "ms"),
        ("energy", energy.value_mj if metered else None, budget.energy_max_mj, "mJ"),
        ("peak memory", measurement.peak_memory_bytes, budget.peak_memory_max_bytes, "bytes"),
    )
    parts = [
        f"{name} {value:.4g} {unit} is above {limit:.4g} {unit}"
        for name, value, limit, unit in limits
        if value is not None and limit is not None and value > limit
    ]
    if not parts:
        return None
    return Finding(kind=TriggerKind.BUDGET_MISSED, reason=f"budget missed: {', '.join(parts)}")


def may_open(cohort: Cohort, known: Sequence[Trigger], *, since: float, now: float) -> Answer:
    """Whether a trigger may be opened.

    Args:
        cohort: that would be fitted.
        known: all triggers of the device for the model.
        since: when the deployment that is in question ended; older triggers answered another.
        now: the time.
    """
    if any(t.cohort == cohort and (not t.closed_at or t.created_at >= since) for t in known):
        return Answer.ANSWERED
    if any(t.closed_at and now - t.closed_at < COOL_DOWN_S for t in known):
        return Answer.LATER
    return Answer.OPEN
