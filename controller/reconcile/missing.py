"""Budgets that devices miss: whether all of a cohort do, or one alone, a case for people."""

from __future__ import annotations

from controller.domain import fleet, triggers
from controller.domain.tickets import Ticket
from controller.reconcile import cohorts, servicing
from controller.reconcile.context import Context
from fitment.core.measurement import Verdict


def of_budget(
    context: Context, device: fleet.Device, deployment: fleet.Deployment
) -> tuple[triggers.Finding, fleet.Budget] | None:
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
    found = triggers.missed(deployment.measurement, budget)
    return (found, budget) if found is not None else None


def is_shared(
    context: Context, device: fleet.Device, deployment: fleet.Deployment,
    found: triggers.Finding, budget: fleet.Budget,
) -> bool:  # fmt: skip
    """Whether its cohort misses it, too; a device that does so alone becomes a case for people."""
    beside = [
        d.measurement
        for d in context.store.deployments.find(release=deployment.release)
        if d.cohort == deployment.cohort and d.variant == deployment.variant
        and d.measurement is not None and d.measurement.verdict is Verdict.VALID
    ]  # fmt: skip
    missing = sum(triggers.missed(taken, budget) is not None for taken in beside)
    if triggers.shared(missing, len(beside)):
        return True
    _ticket(context, device, deployment, f"{found.reason}; {len(beside) - missing} of"
            f" {len(beside)} devices of its cohort keep to it")  # fmt: skip
    return False


def _ticket(
    context: Context, device: fleet.Device, deployment: fleet.Deployment, summary: str
) -> None:
    release = context.store.releases.get(deployment.release)
    asked = [t for t in context.store.tickets.find(device=device.name) if t.slot == deployment.slot]
    if release is None or device.cohort is None:
        return
    if any(not t.closed_at or t.opened_at >= deployment.ended_at for t in asked):
        return  # somebody was told of just this
    now, taken = context.clock(), deployment.measurement
    servicing.open_(context, Ticket(
        id=context.new_id(), device=device.name, model=release.model, slot=deployment.slot,
        variant=deployment.variant, cohort=device.cohort, opened_at=now, updated_at=now,
        summary=summary, numbers=dict(taken.conditions) if taken else {},
        causes=tuple(taken.reasons) if taken else (),
    ))  # fmt: skip
