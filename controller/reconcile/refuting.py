"""Labels that came late and speak against a variant: its cohort is fitted again, without it."""

from __future__ import annotations

from collections.abc import Sequence

from controller.domain import fleet, plan
from controller.reconcile import labelling, optimising
from controller.reconcile.context import Context
from fitment.core.deployment import Outcome


def look(context: Context, rollout: str) -> None:
    """Raise a trigger for each cohort of a rollout that its labels would have halted.

    Not where another version of the model ran before: what changed then is the model, which no
    other variant of it mends, and which an operator may take back (``rollout revert``).
    """
    made = context.store.rollouts.get(rollout)
    release = context.store.releases.get(made.release) if made is not None else None
    if made is None or release is None or not context.settings.optimise:
        return
    why = {r.cohort: f"labels from the field: {r.reason}" for r in labelling.failing(context, made)}
    by_cohort: dict[fleet.Cohort, list[fleet.Deployment]] = {}
    for one in context.store.deployments.find(rollout=rollout, outcome=Outcome.COMMITTED):
        if one.cohort is not None and one.cohort.key in why and _runs(context, one):
            by_cohort.setdefault(one.cohort, []).append(one)
    for cohort, ran in by_cohort.items():
        if _same_model(context, release, ran):
            _raise(context, release, cohort, ran, why[cohort.key])


def _runs(context: Context, ran: fleet.Deployment) -> bool:
    """Whether its device still runs what it committed then."""
    device = context.store.devices.get(ran.device)
    if device is None or device.revoked or device.cohort != ran.cohort:
        return False
    every = plan.own(device, context.store.deployments.find(device=ran.device))
    found = plan.running(every).get(ran.slot)
    return found is not None and found.variant == ran.variant


def _same_model(context: Context, release: fleet.Release, ran: Sequence[fleet.Deployment]) -> bool:
    """Whether a device of them had another variant of this very version before."""
    for one in ran:
        before = [
            d
            for d in context.store.deployments.find(device=one.device, outcome=Outcome.COMMITTED)
            if d.slot == one.slot and d.ended_at < one.ended_at
        ]
        last = max(before, key=lambda d: d.ended_at, default=None)
        had = context.store.releases.get(last.release) if last is not None else None
        if had is not None and last is not None:
            return had.model == release.model and last.variant != one.variant
    return False


def _raise(
    context: Context, release: fleet.Release, cohort: fleet.Cohort,
    ran: Sequence[fleet.Deployment], reason: str,
) -> None:  # fmt: skip
    now = context.clock()
    optimising.raise_(context, fleet.Trigger(
        id=context.new_id(), kind=fleet.TriggerKind.FIELD_FELL, device=ran[0].device,
        model=release.model, cohort=cohort, created_at=now, before=ran[0].variant,
        devices=dict.fromkeys((one.device for one in ran), now), reason=reason,
    ))  # fmt: skip
