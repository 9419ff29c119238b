"""From a trigger to a committed variant: fit again, release, roll out to that device alone."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from controller.domain import fleet, plan, triggers
from controller.domain.fleet import JobStatus, RolloutState
from controller.errors import FitmentError, Temporary
from controller.reconcile import cohorts, fitting, releasing, rolling, zones
from controller.reconcile.context import Context
from fitment.core.deployment import Outcome

log = logging.getLogger("controller.reconcile")

_OVER = frozenset(
    {
        RolloutState.COMPLETED,
        RolloutState.HALTED,
        RolloutState.CANCELLED,
        RolloutState.REVERTED,
    }
)


def look(context: Context, name: str) -> bool:
    """Compare one device with what its variants were admitted for; open triggers for it.

    Returns:
        Whether to look again later, since a change waits for the cool-down.
    """
    device = context.store.devices.get(name)
    if device is None or device.revoked or device.cohort is None or not context.settings.optimise:
        return False
    waiting = False
    every = context.store.deployments.find(device=name)
    for deployment in plan.running(every).values():
        finding = triggers.moved(device, deployment)
        if finding is None:
            continue
        if _unchecked(device, deployment.slot):
            waiting = True
        else:
            waiting |= _open(context, device, deployment, finding)
    for deployment in _newest(every).values():
        finding = _missed(context, device, deployment)
        if finding is not None:
            waiting |= _open(context, device, deployment, finding)
    return waiting


def _newest(every: tuple[fleet.Deployment, ...]) -> dict[str, fleet.Deployment]:
    return {d.slot: d for d in every if d.outcome in (Outcome.COMMITTED, Outcome.ROLLED_BACK)}


def _missed(
    context: Context, device: fleet.Device, deployment: fleet.Deployment
) -> triggers.Finding | None:
    """A budget that was missed where the variant was meant to be.

    What a trigger asked for raises none: a device that misses it again is a case for people.
    """
    release = context.store.releases.get(deployment.release)
    rollout = context.store.rollouts.get(deployment.rollout)
    if release is None or rollout is None or rollout.trigger or deployment.cohort != device.cohort:
        return None
    model = context.store.models.get(release.model)
    if model is None:
        return None
    budget = cohorts.budget_of(context, model, device.profile)
    return triggers.missed(deployment.measurement, budget)


def _open(
    context: Context, device: fleet.Device, deployment: fleet.Deployment, finding: triggers.Finding
) -> bool:
    """Open a trigger, unless it was answered; says whether it waits for the cool-down."""
    release = context.store.releases.get(deployment.release)
    if release is None or device.cohort is None:
        return False
    now = context.clock()
    of_device = context.store.triggers.find(device=device.name)
    known = [t for t in of_device if t.model == release.model]
    answer = triggers.may_open(device.cohort, known, since=deployment.ended_at, now=now)
    if answer is not triggers.Answer.OPEN:
        return answer is triggers.Answer.LATER
    trigger = fleet.Trigger(
        id=context.new_id(), kind=finding.kind, device=device.name, model=release.model,
        cohort=device.cohort, created_at=now, before=deployment.variant,
        reason=f"{finding.reason}{_condition(device, deployment.slot)}",
    )  # fmt: skip
    with context.store.transaction():
        context.store.triggers.add(trigger)
        details = {"kind": trigger.kind.value, "reason": trigger.reason, "device": device.name}
        context.record(f"device:{device.name}", "triggered", trigger.id, details)
    return False


def _unchecked(device: fleet.Device, slot: str) -> bool:
    """Whether the device has yet to say how its variant does on its new stack.

    It always does: a variant that cannot even be asked counts as answering wrongly.
    """
    if device.reported is None:
        return False
    found = next((s for s in device.reported.slots if s.slot == slot and s.variant), None)
    return found is not None and found.checked_stack != device.reported.fingerprint.stack.hash


def _condition(device: fleet.Device, slot: str) -> str:
    """What the device says of the running variant on its new stack."""
    reported = device.reported.slots if device.reported else ()
    found = next((s for s in reported if s.slot == slot), None)
    if found is None:
        return ""
    golden = {None: "not given", True: "right", False: "wrong"}[found.golden_ok]
    coverage = found.integer_coverage
    shown = "unknown" if coverage is None else f"{coverage:.2f}"
    return f"; golden answers {golden}, integer coverage {shown}"


def advance(context: Context) -> None:
    """Take each open trigger one step further."""
    if not context.settings.optimise:
        return
    for trigger in context.store.triggers.find(closed_at=0.0):
        _guarded(context, trigger)


def _guarded(context: Context, trigger: fleet.Trigger) -> None:
    try:
        _step(context, trigger)
    except Temporary as error:
        log.info("action=trigger_waits trigger=%s reason=%s", trigger.id, error)
    except FitmentError as error:
        _close(context, trigger, f"given up: {error}")


def _step(context: Context, trigger: fleet.Trigger) -> None:
    device = context.store.devices.get(trigger.device)
    if device is None or device.revoked:
        _close(context, trigger, "the device was revoked")
    elif not trigger.rollout and device.cohort != trigger.cohort:
        _close(context, trigger, "the device changed again before anything was released")
    elif not trigger.job:
        with context.store.transaction():
            job = fitting.start(context, trigger.model, trigger.cohort, trigger=trigger.id)
            context.store.triggers.put(replace(trigger, job=job.id))
    elif not trigger.release:
        _release(context, trigger)
    elif not trigger.rollout:
        _roll_out(context, trigger)
    else:
        _watch(context, trigger)


def _release(context: Context, trigger: fleet.Trigger) -> None:
    job = context.store.jobs.get(trigger.job)
    if job is None or job.status is JobStatus.FAILED:
        _close(context, trigger, f"the fit failed: {job.error if job else 'it is gone'}")
    elif job.status is JobStatus.DONE and job.choice is not None:
        if not job.choice.chosen:
            _close(context, trigger, job.choice.reason)
        elif job.choice.chosen == trigger.before:
            _close(context, trigger, f"the same variant is still right: {job.choice.reason}")
        else:
            with context.store.transaction():
                made = releasing.create(context, trigger.model, jobs=(job.id,), trigger=True)
                context.store.triggers.put(replace(trigger, release=made.id))


def _roll_out(context: Context, trigger: fleet.Trigger) -> None:
    release = context.store.releases.get(trigger.release)
    if release is None:
        _close(context, trigger, "its release is gone")
        return
    if not release.approved_at:
        if not context.settings.auto_approve:
            return  # an operator decides: fitment model approve
        releasing.approve(context, release.id, actor="controller")
    asked = rolling.RolloutPlan(
        devices=(trigger.device,), waves=(1.0,), gate=fleet.Gate(latency_ratio_max=None),
        **_windows(context, trigger.device, release.slot),
    )  # fmt: skip
    with context.store.transaction():
        made = rolling.create(context, release.id, asked, trigger=trigger.id)
        context.store.triggers.put(replace(trigger, rollout=made.id))


def _windows(context: Context, device: str, slot: str) -> dict[str, Any]:
    """What was switched in a window is switched in one again, if it serves until then."""
    found = context.store.devices.get(device)
    slots = found.reported.slots if found is not None and found.reported is not None else ()
    if any(s.slot == slot and s.golden_ok is False and s.rung == 0 for s in slots):
        return {}
    committed = [
        d
        for d in context.store.deployments.find(device=device)
        if d.slot == slot and d.outcome is Outcome.COMMITTED
    ]
    for ran in sorted(committed, key=lambda d: d.ended_at, reverse=True):
        before = context.store.rollouts.get(ran.rollout)
        if before is not None and not before.trigger:  # an operator's, and no way back of one
            kept = zones.repeating(before.windows)
            return {"windows": kept, "deadline_s": _WINDOW_DEADLINE_S} if kept else {}
    return {}


_WINDOW_DEADLINE_S = 8 * 86_400.0
"""Longer than from any weekly window to the next."""


def _watch(context: Context, trigger: fleet.Trigger) -> None:
    made = context.store.rollouts.get(trigger.rollout)
    if made is None:
        _close(context, trigger, "its rollout is gone")
    elif made.state in _OVER:
        last = made.reasons[-1] if made.reasons else ""
        _close(context, trigger, f"rollout {made.state.value}: {last}{_numbers(context, made)}")


def _numbers(context: Context, made: fleet.Rollout) -> str:
    """What the device measured, beside what it ran before."""
    parts = []
    for deployment in context.store.deployments.find(rollout=made.id):
        taken = deployment.measurement
        if taken is not None and taken.latency is not None:
            words = f"{deployment.device}: {taken.latency.p50_ms:.3f} ms p50"
            if taken.baseline_latency is not None:
                words += f", before {taken.baseline_latency.p50_ms:.3f} ms on the same stack"
            parts.append(words)
    return "".join(f"; {part}" for part in parts)


def _close(context: Context, trigger: fleet.Trigger, result: str) -> None:
    newest = context.store.triggers.get(trigger.id) or trigger
    with context.store.transaction():
        context.store.triggers.put(replace(newest, closed_at=context.clock(), result=result))
        context.record("controller", "trigger_closed", trigger.id, {"result": result})
