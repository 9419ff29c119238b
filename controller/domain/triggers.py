"""When to fit again, and the reason in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Cohort, Trigger, TriggerKind
from fitment.core.fingerprint import Facet, Fingerprint

COOL_DOWN_S = 30.0
"""Pause after a trigger closed before the same device may raise another of the same cohort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A change that asks for a fit."""

    kind: TriggerKind
    reason: str


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


def may_open(device: str, cohort: Cohort, known: Sequence[Trigger], now: float) -> bool:
    """Whether no open trigger covers this change and the cool-down is over."""
    for trigger in known:
        if trigger.device != device or trigger.cohort != cohort:
            continue
        if not trigger.closed_at or now - trigger.closed_at < COOL_DOWN_S:
            return False
    return True
