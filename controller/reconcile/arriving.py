"""What announced stacks mean for the rest: what releases carry, and which changes are expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.domain import fleet, stacks
from controller.domain.fleet import JobStatus
from controller.domain.stacks import StackAnnouncement, StackPart
from controller.reconcile.context import Context


def rung(now: StackAnnouncement, part: StackPart) -> fleet.Rung:
    """The variant for an announced stack, as it stands on a ladder."""
    return fleet.Rung(
        variant=part.chosen, stacks=(now.stack,), coverage_min=part.coverage,
        reason=f"for the announced stack '{now.name}': {part.name}",
    )  # fmt: skip


def carried(
    context: Context, release: fleet.Release, cohorts: Mapping[str, fleet.Cohort]
) -> fleet.Release:
    """The same release with what was found for stacks that are to come to its cohorts.

    ``cohorts``: those of its keys that name one.
    """
    ladders = dict(release.ladders)
    for now in context.store.stacks.find(closed_at=0.0):
        part = now.parts.get(release.slot)
        if now.state not in stacks.HELD or part is None:
            continue
        found = _of_model(context, now, part, release.model)
        for key, cohort in cohorts.items():
            alike = (cohort.profile, cohort.hardware) == (now.profile, now.hardware)
            if found is not None and alike and cohort.stack != now.stack:
                ladders[key] = with_rung(
                    release.variants.get(key, ""), ladders.get(key, ()), rung(now, found)
                )
    return replace(release, ladders={key: rungs for key, rungs in ladders.items() if rungs})


def with_rung(
    variant: str, rungs: tuple[fleet.Rung, ...], added: fleet.Rung
) -> tuple[fleet.Rung, ...]:
    """The rungs below a variant, with one for a stack in the place of an older one for it."""
    kept = tuple(r for r in rungs if not set(r.stacks) & set(added.stacks))
    return kept if variant == added.variant else (*kept, added)


def _of_model(
    context: Context, now: StackAnnouncement, part: StackPart, model: str
) -> StackPart | None:
    """What a model version will run there: what was tried out, or what a fit of it chose since."""
    if part.model == model:
        return part
    done = [
        job
        for job in context.store.jobs.find(model=model)
        if job.cohort == now.cohort and job.status is JobStatus.DONE
        and job.choice is not None and job.choice.chosen
    ]  # fmt: skip
    if not done or done[-1].choice is None:
        return None
    chosen = done[-1].choice.chosen
    name = next((v.name for v in done[-1].variants if v.bundle.variant == chosen), "")
    return StackPart(model=model, chosen=chosen, name=name)


def expected(
    context: Context, device: fleet.Device, deployment: fleet.Deployment, change: str
) -> tuple[bool, str]:
    """Whether a changed stack was prepared for, so that nothing is to be done about it.

    The device's word counts: that it holds what was made for the stack, and that it is right there.

    Returns:
        Whether it was, and else what became of what had been prepared; empty: nothing had.
    """
    words = ""
    for now in context.store.stacks.find(profile=device.profile):
        part = now.parts.get(deployment.slot)
        if now.state not in stacks.HELD or part is None or now.cohort != device.cohort:
            continue
        good, said = stacks.serves(device, deployment.slot, part)
        if good:
            _note(context, now, device.name, deployment.slot, {
                "change": change, "serves": said, "variant": part.name, "tested": part.tested,
                "instead": "no trigger: the stack was announced and qualified",
            })  # fmt: skip
            return True, said
        words = f"; what was prepared for '{now.name}' does not hold: {said}"
    return False, words


def _note(
    context: Context, now: StackAnnouncement, device: str, slot: str, details: dict[str, str]
) -> None:
    """Say in the audit log, once, that a device has the stack."""
    key = f"{device}/{slot}"
    if key in now.arrived:
        return
    with context.store.transaction():
        arrived = {**now.arrived, key: context.clock()}
        context.store.stacks.put(replace(now, arrived=arrived))
        details = {"device": device, "slot": slot, "stack": now.name, **details}
        context.record(f"device:{device}", "stack_came", now.id, details)
