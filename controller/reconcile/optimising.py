"""From a trigger to a committed variant: fit again, release, roll out to its devices alone."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from controller.domain import fleet, plan, policy, triggers
from controller.domain.fleet import JobStatus, RolloutState
from controller.domain.policy import Policy
from controller.errors import Conflict, FitmentError, NotFound, Temporary, TrustError, UserError
from controller.reconcile import (
    arriving,
    cohorts,
    fitting,
    missing,
    policies,
    releasing,
    rolling,
    zones,
)
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
    every = plan.own(device, context.store.deployments.find(device=name))
    for deployment in plan.running(every).values():
        finding = triggers.moved(device, deployment)
        if finding is None:
            continue
        if _unchecked(device, deployment.slot):
            waiting = True
            continue
        prepared, words = arriving.expected(context, device, deployment, finding.reason)
        if not prepared:
            finding = replace(finding, reason=finding.reason + words)
            waiting |= _open(context, device, deployment, finding)
    for deployment in _newest(every).values():
        waiting |= _miss(context, device, deployment)
    return waiting


def _miss(context: Context, device: fleet.Device, deployment: fleet.Deployment) -> bool:
    """Ask for a fit where a budget was missed; says whether that waits.

    What became of an earlier asking is looked at first: that costs little, while the devices
    beside it, of which there may be a whole fleet, are read in order to tell it from them.
    """
    missed = missing.of_budget(context, device, deployment)
    if missed is None:
        return False
    finding, budget = missed
    answer = _answer(context, device, deployment)
    if answer in (triggers.Answer.ANSWERED, triggers.Answer.LATER):
        return answer is triggers.Answer.LATER
    if not missing.is_shared(context, device, deployment, finding, budget):
        return False
    return _open(context, device, deployment, finding)


def _answer(
    context: Context, device: fleet.Device, deployment: fleet.Deployment
) -> triggers.Answer:
    release = context.store.releases.get(deployment.release)
    if release is None or device.cohort is None:
        return triggers.Answer.ANSWERED
    known = context.store.triggers.find(model=release.model)
    since, now = deployment.ended_at, context.clock()
    return triggers.may_open(device.name, device.cohort, known, since=since, now=now)


def _newest(every: tuple[fleet.Deployment, ...]) -> dict[str, fleet.Deployment]:
    return {d.slot: d for d in every if d.outcome in (Outcome.COMMITTED, Outcome.ROLLED_BACK)}


def _open(
    context: Context, device: fleet.Device, deployment: fleet.Deployment, finding: triggers.Finding
) -> bool:
    """Open a trigger or join one, unless it was answered; says whether it waits."""
    release = context.store.releases.get(deployment.release)
    if release is None or device.cohort is None:
        return False
    now, cohort = context.clock(), device.cohort
    known = context.store.triggers.find(model=release.model)
    answer = triggers.may_open(device.name, cohort, known, since=deployment.ended_at, now=now)
    if answer is triggers.Answer.JOIN:
        _join(context, next(t for t in known if _gathers(t, cohort)), device.name)
    if answer is not triggers.Answer.OPEN:
        return answer is triggers.Answer.LATER
    raise_(context, fleet.Trigger(
        id=context.new_id(), kind=finding.kind, device=device.name, model=release.model,
        cohort=cohort, created_at=now, before=deployment.variant, devices={device.name: now},
        reason=f"{finding.reason}{_condition(device, deployment.slot)}",
    ))  # fmt: skip
    return False


def raise_(context: Context, trigger: fleet.Trigger) -> None:
    """Keep a trigger and say so in the audit log."""
    with context.store.transaction():
        context.store.triggers.add(trigger)
        details = {"kind": trigger.kind.value, "reason": trigger.reason, "device": trigger.device}
        if len(trigger.joined) > 1:
            details["devices"] = str(len(trigger.joined))
        context.record(f"device:{trigger.device}", "triggered", trigger.id, details)


def _gathers(trigger: fleet.Trigger, cohort: fleet.Cohort) -> bool:
    open_ = not trigger.closed_at and not trigger.rollout
    return open_ and trigger.cohort == cohort and not trigger.by_level


def _join(context: Context, trigger: fleet.Trigger, device: str) -> None:
    with context.store.transaction():
        devices = {**trigger.joined, device: context.clock()}
        context.store.triggers.put(replace(trigger, devices=devices))
        context.record(f"device:{device}", "trigger_joined", trigger.id, {"device": device})


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
    trigger = trigger if trigger.rollout else _still(context, trigger)
    if trigger.closed_at:
        return
    if not trigger.job:
        with context.store.transaction():
            job = fitting.start(
                context, trigger.model, trigger.cohort, trigger=trigger.id,
                fresh=trigger.by_level, climbs_from=trigger.before if trigger.by_level else "",
                level_ms=trigger.level_ms,
            )  # fmt: skip
            context.store.triggers.put(replace(trigger, job=job.id))
    elif not trigger.rollout and not trigger.release:
        _release(context, trigger)
    elif not trigger.rollout:
        _roll_out(context, trigger)
    else:
        _watch(context, trigger)


def _still(context: Context, trigger: fleet.Trigger) -> fleet.Trigger:
    """The trigger without devices that are not of its cohort any more; closed when none is left."""
    kept, revoked = {}, False
    for name, joined in trigger.joined.items():
        device = context.store.devices.get(name)
        revoked |= device is None or device.revoked
        if device is not None and not device.revoked and device.cohort == trigger.cohort:
            kept[name] = joined
    if not kept:
        words = "the device was revoked" if revoked else (
            "the device changed again before anything was released"
        )  # fmt: skip
        return _close(context, trigger, words)
    if len(kept) < len(trigger.joined):
        trigger = replace(trigger, devices=kept)
        context.store.triggers.put(trigger)
    return trigger


def _release(context: Context, trigger: fleet.Trigger) -> None:
    job = context.store.jobs.get(trigger.job)
    if job is None or job.status is JobStatus.FAILED:
        _close(context, trigger, f"the fit failed: {job.error if job else 'it is gone'}")
    elif job.status is JobStatus.DONE and job.choice is not None:
        if not job.choice.chosen:
            _close(context, trigger, job.choice.reason)
        elif context.clock() - max(trigger.joined.values()) < _gather_s(context, trigger):
            return  # more devices may ask for the same
        elif not _others(context, trigger, job.choice.chosen):
            _close(context, trigger, f"the same variant is still right: {job.choice.reason}")
        else:
            with context.store.transaction():
                made = releasing.create(context, trigger.model, jobs=(job.id,), trigger=True)
                context.store.triggers.put(replace(trigger, release=made.id))


def _gather_s(context: Context, trigger: fleet.Trigger) -> float:
    """How long to wait for more; less and less, so that stragglers hold nobody up for long."""
    waited = context.clock() - trigger.created_at
    alone = len(cohorts.members(context, trigger.cohort)) <= len(trigger.joined)
    most = _GATHER_MOST * context.settings.gather_s
    return 0.0 if alone or waited > most else context.settings.gather_s


_GATHER_MOST = 20
"""A trigger waits for devices this many times the pause, whoever still comes."""


def _others(context: Context, trigger: fleet.Trigger, chosen: str) -> tuple[str, ...]:
    """Its devices that do not run what was chosen, in the order in which they asked.

    Those that are a case for service come last: the first one is the canary.
    """
    model = context.store.models.get(trigger.model)
    found = []
    for name in trigger.joined:
        device = context.store.devices.get(name)
        every = context.store.deployments.find(device=name)
        ran = plan.running(plan.own(device, every) if device is not None else every)
        runs = ran.get(model.name) if model is not None else None
        before = runs.variant if runs is not None else ""
        if (before or trigger.before) != chosen:
            found.append(name)
    ill = {ticket.device for ticket in context.store.tickets.find(closed_at=0.0)}
    return tuple(sorted(found, key=lambda name: name in ill))


def _roll_out(context: Context, trigger: fleet.Trigger) -> None:
    release = context.store.releases.get(trigger.release)
    job = context.store.jobs.get(trigger.job)
    if release is None or job is None or job.choice is None:
        _close(context, trigger, "its release is gone")
        return
    may = policies.of(context, release.slot)
    if not release.approved_at and not _approved(context, trigger, release, may):
        return
    devices = _others(context, trigger, job.choice.chosen)
    if not devices:
        _close(context, trigger, "its devices run what was chosen by now")
        return
    many = len(devices) >= _MANY
    asked = rolling.RolloutPlan(
        devices=devices, waves=policy.waves(len(devices)),
        gate=fleet.Gate(latency_ratio_max=None, max_failure_share=_FAILURES if many else 0.0),
        **windows_of(context, devices[0], release.slot),
    )  # fmt: skip
    with context.store.transaction():
        made = rolling.create(
            context, release.id, asked, trigger=trigger.id,
            asks_after=policy.asks_after(may, len(devices)),
        )  # fmt: skip
        details = {"policy": may.value, "devices": str(len(devices)), "trigger": trigger.id}
        context.record("controller", "policy_applied", made.id, details)
        context.store.triggers.put(replace(trigger, rollout=made.id, waits=""))


_MANY = 20
_FAILURES = 0.02
"""Of many devices some fail whatever they are given; of few, each is looked at."""


def _approved(
    context: Context, trigger: fleet.Trigger, release: fleet.Release, may: Policy
) -> bool:
    """Approve where the policy says so; else say who has to, and how."""
    waits = f"an operator approves it (policy: {may.value}): fitment model approve {release.slot}"
    if may is not Policy.PROPOSE:
        try:
            releasing.approve(context, release.id, actor="controller")
        except TrustError as error:
            waits = f"{error}; then: fitment model approve {release.slot}"
        else:
            return True
    if trigger.waits != waits:
        with context.store.transaction():
            context.store.triggers.put(replace(trigger, waits=waits))
            context.record("controller", "proposed", trigger.id, {
                "release": release.id, "policy": may.value, "reason": trigger.reason,
                **{key: why for key, why in release.reasons.items() if "/" in key},
            })  # fmt: skip
    return False


def windows_of(context: Context, device: str, slot: str) -> dict[str, Any]:
    """What was switched in a window is switched in one again, if it serves until then."""
    found = context.store.devices.get(device)
    slots = found.reported.slots if found is not None and found.reported is not None else ()
    if any(s.slot == slot and s.golden_ok is False and s.rung == 0 for s in slots):
        return {}
    if found is None:
        return {}
    committed = [
        d
        for d in plan.own(found, context.store.deployments.find(device=device))
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
    else:
        waits = f"{made.asks}; answer: fitment rollout resume {made.id}" if made.asks else ""
        if waits != trigger.waits:
            context.store.triggers.put(replace(trigger, waits=waits))


_TOLD = 5
"""Devices whose numbers are told; the rollout has all."""


def _numbers(context: Context, made: fleet.Rollout) -> str:
    """What the devices measured, beside what they ran before."""
    parts = []
    for deployment in context.store.deployments.find(rollout=made.id):
        taken = deployment.measurement
        if taken is not None and taken.latency is not None:
            words = f"{deployment.device}: {taken.latency.p50_ms:.3f} ms p50"
            if taken.baseline_latency is not None:
                words += f", before {taken.baseline_latency.p50_ms:.3f} ms on the same stack"
            parts.append(words)
    more = f"; and {len(parts) - _TOLD} more" if len(parts) > _TOLD else ""
    return "".join(f"; {part}" for part in parts[:_TOLD]) + more


def refuse(context: Context, key: str, reason: str) -> fleet.Trigger:
    """Close a trigger that nobody wants; what it asked for counts as answered.

    Raises:
        NotFound: there is none.
        UserError: no reason is given.
        Conflict: it is closed, or its rollout has begun.
    """
    trigger = context.store.triggers.get(key)
    if trigger is None:
        raise NotFound(f"no trigger '{key}'; see: fitment trigger list")
    if not reason.strip():
        raise UserError("say why, for whoever reads it later: fitment trigger close ID REASON")
    if trigger.closed_at:
        raise Conflict(f"the trigger is closed already: {trigger.result}")
    if trigger.rollout:
        raise Conflict(
            f"its rollout has begun; cancel that: fitment rollout cancel {trigger.rollout}"
        )
    return _close(context, trigger, f"closed by an operator: {reason.strip()}", actor="operator")


def _close(
    context: Context, trigger: fleet.Trigger, result: str, *, actor: str = "controller"
) -> fleet.Trigger:
    newest = context.store.triggers.get(trigger.id) or trigger
    closed = replace(newest, closed_at=context.clock(), result=result, waits="")
    with context.store.transaction():
        context.store.triggers.put(closed)
        context.record(actor, "trigger_closed", trigger.id, {"result": result})
        if trigger.job and not trigger.release:
            fitting.cancel(context, trigger, f"its trigger was closed: {result}")
    return closed
