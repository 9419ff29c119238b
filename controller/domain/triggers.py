"""When to fit again, and the reason in words.

Looked at as a level, not an edge: what a device *is* beside what its running variant was
admitted for. So nothing is lost in a cool-down or a restart. The stop rule: a trigger that was
closed is the answer for that deployment in that cohort, whatever came of it; the loop does not
ask the same question twice.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Budget, Cohort, Deployment, Device, Trigger, TriggerKind
from controller.domain.levels import Rules, Steady, percent
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.measurement import Measurement, ReadingStatus, Verdict

COOL_DOWN_S = 30.0
"""Pause after a trigger closed before its device, or cohort, may raise another for the model."""
COOL_DOWN_MOST_S = 3600.0
DAY_S = 86_400.0
LEVEL_COOL_DOWN_S = DAY_S
"""The same where levels asked: new windows must fill."""
MEMORY_S = 30 * DAY_S
BUDGET = 6
"""Triggers of levels that a cohort may raise within the memory."""
LEAST_PEERS = 3
SHARED = 0.5
"""Share of devices that must have moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A change that asks for a fit."""

    kind: TriggerKind
    reason: str
    level_ms: float = 0.0  # tail of what runs, as the field has it; 0: not known


class Answer(enum.Enum):
    """Whether a finding may become a trigger."""

    OPEN = "open"  # yes, now
    JOIN = "join"  # the open one of its cohort is for it, too
    LATER = "later"  # the last trigger closed a moment ago, or is being rolled out
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


def may_open(
    device: str, cohort: Cohort, known: Sequence[Trigger], *, since: float, now: float
) -> Answer:
    """Whether a device's change may become a trigger of its cohort.

    One trigger gathers all devices that ask for the same: whoever comes before it is rolled out
    joins it, which costs no fit. The pause between two of a cohort grows with each of the last
    day, so that a fleet that upgrades over days is answered in few steps.

    Args:
        device: that changed.
        cohort: that would be fitted.
        known: all triggers of the model.
        since: when the deployment that is in question ended; older triggers answered another.
        now: the time.
    """
    of_device = [t for t in known if device in t.joined]
    same = [t for t in known if t.cohort == cohort and not t.by_level]
    for trigger in of_device:
        began = trigger.joined[device]
        if trigger.cohort == cohort and (not trigger.closed_at or began >= since):
            return Answer.ANSWERED
    if any(t.closed_at and now - t.closed_at < COOL_DOWN_S for t in of_device):
        return Answer.LATER
    if any(not t.closed_at and not t.rollout for t in same):
        return Answer.JOIN
    if any(not t.closed_at for t in known if t.cohort == cohort):
        return Answer.LATER
    newest = max((t.closed_at for t in same), default=-math.inf)
    recent = sum(now - t.created_at < DAY_S for t in same)
    pause = min(COOL_DOWN_S * 2.0**recent, COOL_DOWN_MOST_S) if recent else 0.0
    return Answer.LATER if now - newest < pause else Answer.OPEN


def shared(missing: int, measured: int) -> bool:
    """Whether a miss that some devices of a cohort measured is the cohort's.

    The first few speak for all, since nobody else can.
    """
    return measured < LEAST_PEERS or 2 * missing >= measured


def level(shift: Steady, reference: float, rules: Rules) -> Finding | None:
    """What a cohort asks for whose devices all became slower, or faster, at the same heat.

    ``reference``: the shift at the same heat at which this was last answered; 0: never.
    """
    if shift.same_heat is None or shift.devices < rules.peers or shift.moved < SHARED:
        return None
    moved = shift.same_heat - reference
    if abs(moved) < math.log1p(rules.together):
        return None
    way = "slower" if moved > 0 else "faster"
    reason = (
        f"{shift.devices} devices became {way} together: {percent(shift.same_heat)} at the same"
        f" heat, {shift.moved:.0%} of them moved"
    )
    if reference:
        reason += f"; it was answered at {percent(reference)}"
    return Finding(kind=TriggerKind.SHIFTED, reason=reason)


def over_budget(
    shift: Steady, reference: float | None, tail_ms: float | None, limit_ms: float | None,
    rules: Rules, taken_at: float = 0.0,
) -> Finding | None:  # fmt: skip
    """What a cohort asks for whose latency is above its budget in every window.

    Args:
        shift: of the cohort.
        reference: the shift at which this was last answered; None: never.
        tail_ms: what the running variant's tail measured.
        limit_ms: the budget.
        rules: when a difference is one.
        taken_at: the shift at which it did; 0: when its baseline was taken.
    """
    if shift.whole is None or tail_ms is None or limit_ms is None:
        return None
    if reference is not None and shift.whole < reference + math.log1p(rules.together):
        return None
    if tail_ms * math.exp(shift.whole - taken_at) <= limit_ms * (1.0 + rules.over):
        return None
    now_ms = tail_ms * math.exp(shift.middle - taken_at)
    reason = (
        f"budget missed: p95 latency of {shift.devices} devices is about {now_ms:.4g} ms, above"
        f" {limit_ms:.4g} ms ({tail_ms:.4g} ms measured, {percent(shift.middle - taken_at)} since)"
    )
    return Finding(kind=TriggerKind.BUDGET_MISSED, reason=reason, level_ms=now_ms)


def has_room(shift: Steady, reference: float | None, rules: Rules) -> bool:
    """Whether a cohort became so much faster that it is worth asking what it can afford."""
    if shift.whole is None:
        return False
    least = math.log1p(rules.moved_least) if reference is None else math.log1p(rules.together)
    return shift.whole <= (reference or 0.0) - least


def asks_of_budget(shift: Steady, reference: float | None, rules: Rules) -> bool:
    """Whether a shift may have led out of a latency budget, or to time to spare.

    Cheap: it needs nothing of what was measured. Where nothing was asked before, whatever became
    slower in every window may be above the budget, since a variant may be just within it.
    """
    if shift.whole is None:
        return False
    least = 0.0 if reference is None else reference + math.log1p(rules.together)
    slower = shift.whole > least if reference is None else shift.whole >= least
    return slower or has_room(shift, reference, rules)


def affordable(shift: Steady, name: str, tail_ms: float, limit_ms: float) -> Finding:
    """That a cohort has time to spare for a more accurate variant."""
    whole = shift.whole or 0.0
    reason = (
        f"{shift.devices} devices became faster ({percent(whole)}): {name} is more accurate, and"
        f" would take about {tail_ms:.4g} ms of {limit_ms:.4g} ms"
    )
    return Finding(kind=TriggerKind.AFFORDABLE, reason=reason)


def may_shift(known: Sequence[Trigger], *, now: float) -> Answer:
    """Whether a level may raise a trigger for its cohort: cool-down, search budget, stop rule.

    The pause doubles with each trigger of the last `MEMORY_S`, and no more than `BUDGET` are
    raised in it. So whatever the levels do, a cohort is fitted `BUDGET` times a month at most.

    Args:
        known: triggers of the cohort for the model, of any kind.
        now: the time.
    """
    if any(not t.closed_at for t in known):
        return Answer.ANSWERED
    recent = [t for t in known if t.by_level and now - t.created_at < MEMORY_S]
    if len(recent) >= BUDGET:
        return Answer.LATER
    newest = max((t.closed_at for t in known), default=-math.inf)
    pause = LEVEL_COOL_DOWN_S * 2.0 ** max(0, len(recent) - 1)
    return Answer.LATER if now - newest < pause else Answer.OPEN


def reference(known: Sequence[Trigger], variant: str, *, since: float) -> float | None:
    """The shift at which the running variant was last looked at because of a level.

    ``since``: when it was committed; an earlier baseline of the same variant was another.
    """
    newest = _answered(known, variant, since)
    return newest.shift if newest is not None else None


def reference_at_same_heat(
    known: Sequence[Trigger], variant: str, *, since: float, now: float | None
) -> float:
    """The same for shifts at the same heat; 0: never.

    Where nobody knew it then (and in older records), it was between none and the whole shift, since
    heat had a part in that: what is now between them counts as answered.

    Args:
        known: triggers of the cohort for the model.
        variant: that runs.
        since: when it was committed.
        now: the shift at the same heat of now.
    """
    newest = _answered(known, variant, since)
    if newest is None:
        return 0.0
    if newest.same_heat is not None:
        return newest.same_heat
    low, high = sorted((0.0, newest.shift))
    return min(max(now or 0.0, low), high)


def taken_at(known: Sequence[Trigger], job: str, variant: str, *, since: float) -> float:
    """The shift of a variant's level at which a fit timed it anew; 0 where that was its baseline.

    Args:
        known: triggers of the cohort for the model.
        job: the fit.
        variant: that runs, and ran when it was asked.
        since: when it was committed.
    """
    mine = [t for t in known if t.job == job and t.by_level and t.before == variant]
    return next((t.shift for t in mine if t.created_at >= since), 0.0)


def _answered(known: Sequence[Trigger], variant: str, since: float) -> Trigger | None:
    answered = [
        t
        for t in known
        if t.by_level and t.closed_at and t.before == variant and t.created_at >= since
    ]
    return answered[-1] if answered else None
