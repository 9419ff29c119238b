"""From a trigger to a committed variant: fit again, release, roll out to that device alone."""

from __future__ import annotations

from dataclasses import replace

from controller.domain import fleet
from controller.domain.fleet import JobStatus, RolloutState
from controller.errors import FitmentError
from controller.reconcile import fitting, releasing, rolling
from controller.reconcile.context import Context

_OVER = frozenset(
    {
        RolloutState.COMPLETED,
        RolloutState.HALTED,
        RolloutState.CANCELLED,
        RolloutState.REVERTED,
    }
)


def advance(context: Context) -> None:
    """Take each open trigger one step further."""
    if not context.settings.optimise:
        return
    for trigger in context.store.triggers.find():
        if trigger.closed_at:
            continue
        try:
            _step(context, trigger)
        except FitmentError as error:
            _close(context, trigger, f"given up: {error}")


def _step(context: Context, trigger: fleet.Trigger) -> None:
    if not trigger.job:
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
            _close(context, trigger, f"the running variant is still right: {job.choice.reason}")
        else:
            made = releasing.create(context, trigger.model, jobs=(job.id,), trigger=True)
            context.store.triggers.put(replace(trigger, release=made.id))


def _roll_out(context: Context, trigger: fleet.Trigger) -> None:
    release = context.store.releases.get(trigger.release)
    if release is None:
        _close(context, trigger, "its release is gone")
        return
    if not release.approved_at:
        if not context.settings.auto_approve:
            return  # an operator decides: fitment release approve
        releasing.approve(context, release.id, actor="controller")
    plan = rolling.RolloutPlan(
        devices=(trigger.device,), waves=(1.0,), gate=fleet.Gate(latency_ratio_max=None)
    )
    made = rolling.create(context, release.id, plan, trigger=trigger.id)
    context.store.triggers.put(replace(trigger, rollout=made.id))


def _watch(context: Context, trigger: fleet.Trigger) -> None:
    made = context.store.rollouts.get(trigger.rollout)
    if made is None or made.state in _OVER:
        last = made.reasons[-1] if made and made.reasons else ""
        state = made.state.value if made else "gone"
        _close(context, trigger, f"rollout {state}: {last}")


def _close(context: Context, trigger: fleet.Trigger, result: str) -> None:
    newest = context.store.triggers.get(trigger.id) or trigger
    with context.store.transaction():
        context.store.triggers.put(replace(newest, closed_at=context.clock(), result=result))
        context.record("controller", "trigger_closed", trigger.id, {"result": result})
