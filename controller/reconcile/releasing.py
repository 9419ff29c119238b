"""Releases: which variant each cohort gets, with a counter that only rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.domain import catching_up, fleet, lesser, plan
from controller.domain.fleet import JobStatus
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import arriving, cohorts, fitting
from controller.reconcile.context import Context
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import CalibrationMode, CalibrationPlan, DeviceGates, Outcome

_AGREEMENT = 0.95
"""Least agreement with fp32 on the device, where no budget says otherwise."""
_AGREEMENT_SLACK = 0.05
"""The golden inputs are few: a variant that is known to agree less may miss its figure by this."""
DEVICE_RATIO_MAX = 1.5
"""A device refuses what is half again as slow as what it runs; the rollout's gate is finer."""


def create(
    context: Context, model_id: str, *, jobs: Sequence[str] = (), trigger: bool = False,
    with_fallback: bool = False,
) -> fleet.Release:  # fmt: skip
    """A release of the choices of finished fits: of ``jobs``, or the newest of each cohort.

    Lesser variants stand below the choices ``with_fallback``, where a budget sets
    ``lesser_accuracy_drop_max``, where a fit was asked for rungs, and in what a trigger asks for
    when a release before it had them.

    Raises:
        UserError: no fit has chosen anything; the message says what each came to.
    """
    model = context.store.models.get(model_id)
    if model is None:
        raise NotFound(f"no model version '{model_id}'; see: fitment model list")
    done = [j for j in context.store.jobs.find(model=model_id) if j.status is JobStatus.DONE]
    newest = {j.cohort.key: j for j in done if not jobs or j.id in jobs}
    chosen = {k: j for k, j in newest.items() if j.choice is not None and j.choice.chosen}
    if not chosen:
        why = "; ".join(f"{k}: {j.choice.reason}" for k, j in newest.items() if j.choice)
        raise UserError(f"nothing to release: {why or 'no fit is done; run: fitment fit'}")
    release = _assemble(context, model, chosen, trigger=trigger)
    before = context.store.releases.find(model=model_id) if trigger else ()
    release = _with_ladders(
        context, model, release, chosen,
        always=with_fallback or any(r.ladders for r in before),
    )  # fmt: skip
    release = arriving.carried(context, release, {key: j.cohort for key, j in chosen.items()})
    with context.store.transaction():
        context.store.releases.add(release)
        details = {key: reason for key, reason in release.reasons.items() if "/" in key}
        context.record("controller", "release_created", release.id, details)
    return release


def _assemble(
    context: Context,
    model: fleet.ModelVersion,
    chosen: dict[str, fleet.FitJob],
    *,
    trigger: bool,
) -> fleet.Release:
    release = fleet.Release(
        id=context.new_id(), model=model.id, slot=model.name, created_at=context.clock(),
        counter=highest_counter(context, model.name) + 1,
    )  # fmt: skip
    variants, reasons, gates, calibration = {}, {}, {}, {}
    for key, job in chosen.items():
        if job.choice is None:
            continue
        profile = job.cohort.profile
        variant = next(v for v in job.variants if v.bundle.variant == job.choice.chosen)
        # What a trigger asked for is for that cohort alone. Else the first cohort of a profile
        # is the fallback of its others.
        names = (key,) if trigger or profile in variants else (key, profile)
        for name in names:
            variants[name], reasons[name] = job.choice.chosen, job.choice.reason
            budget = cohorts.budget_of(context, model, profile)
            gates[name] = _gates(budget, variant, trigger=trigger)
            if variant.calibratable and profile in model.calibrate_profiles:
                calibration[name] = CalibrationPlan(mode=CalibrationMode.INPUT)
    return replace(
        release, variants=variants, reasons=reasons, gates=gates, calibration=calibration
    )


def _note(made: lesser.Ladder, job: fleet.FitJob, budget: fleet.Budget) -> str:
    """Why there are no more rungs."""
    if not job.rungs or budget.lesser_accuracy_drop_max is not None:
        return made.reason
    asked = "no cheaper variant: set lesser_accuracy_drop_max in the budget, what one may lose"
    return "; ".join(filter(None, (asked, made.reason)))


def _with_ladders(
    context: Context, model: fleet.ModelVersion, release: fleet.Release,
    chosen: dict[str, fleet.FitJob], *, always: bool,
) -> fleet.Release:  # fmt: skip
    """The same release with a ladder wherever one is asked for."""
    ladders: dict[str, tuple[fleet.Rung, ...]] = {}
    notes: dict[str, str] = {}
    for key, job in chosen.items():
        budget = cohorts.budget_of(context, model, job.cohort.profile)
        if not always and not job.rungs and budget.lesser_accuracy_drop_max is None:
            continue
        best = next(v for v in job.variants if v.bundle.variant == release.variants[key])
        case = lesser.Case(
            budget=budget, measured=job.measured, unusable=fitting.unusable(context, job)
        )
        made = lesser.ladder(best, job.variants, case)
        for name in (key, job.cohort.profile):
            # A profile is the fallback of its other cohorts, with the same variant.
            if release.variants.get(name) == release.variants[key] and name not in ladders:
                ladders[name], notes[name] = made.rungs, _note(made, job, budget)
    return replace(release, ladders=ladders, ladder_notes=notes)


def _gates(budget: fleet.Budget, variant: fleet.Variant, *, trigger: bool) -> DeviceGates:
    """What a device must see; after a changed stack its old baseline is no measure."""
    known = min(_AGREEMENT, max(0.0, variant.guard_agreement - _AGREEMENT_SLACK))
    return DeviceGates(
        latency_p95_max_ms=budget.latency_p95_max_ms,
        latency_ratio_max=None if trigger else DEVICE_RATIO_MAX,
        agreement_min=known if budget.agreement_min is None else budget.agreement_min,
        peak_memory_max_bytes=budget.peak_memory_max_bytes,
        energy_max_mj=budget.energy_max_mj,
    )


def highest_counter(context: Context, slot: str) -> int:
    """Of every release of the slot, and of what devices say they run or ran, as far as believed."""
    ours = max((r.counter for r in context.store.releases.find(slot=slot)), default=0)
    said = context.counters.of(context.store, slot)
    theirs = [catching_up.believed(ours, counter) for counter in said]
    return max([ours, *theirs])


def approve(context: Context, release_id: str, *, actor: str = "operator") -> fleet.Release:
    """Sign a release with the offline key, so that devices accept it.

    Raises:
        NotFound: no such release.
        TrustError: the offline keys are not here.
    """
    release = context.store.releases.get(release_id)
    if release is None:
        raise NotFound(f"no release '{release_id}'; see: fitment release list")
    if release.approved_at:
        return release
    model = context.store.models.get(release.model)
    if model is None:
        raise Conflict("the release's model version is gone")
    manifest = ReleaseManifest(
        release=release.id, model=model.name, version=model.version, slot=release.slot,
        counter=release.counter, variants=dict(release.variants),
        created=f"{release.created_at:.0f}",
        ladders={key: tuple(r.variant for r in rungs) for key, rungs in release.ladders.items()},
    )  # fmt: skip
    context.trust.repository.approve(manifest)
    approved = replace(release, approved_at=context.clock())
    with context.store.transaction():
        context.store.releases.put(approved)
        context.record(actor, "release_approved", release.id, {"counter": str(release.counter)})
    return approved


def revert_of(
    context: Context, rollout: fleet.Rollout, devices: Sequence[fleet.Device]
) -> fleet.Release:
    """A new release, with a higher counter, of what each of the devices ran before.

    Raises:
        UserError: none of them ran anything before.
    """
    current = context.store.releases.get(rollout.release)
    if current is None:
        raise Conflict("the rollout's release is gone")
    variants: dict[str, str] = {}
    reasons: dict[str, str] = {}
    ladders: dict[str, tuple[fleet.Rung, ...]] = {}
    models: list[str] = []
    for device in devices:
        before = _before(context, device, current)
        release = context.store.releases.get(before.release) if before else None
        if before is not None and release is not None:
            name = device.cohort.key if device.cohort else device.profile
            variants.setdefault(name, before.variant)
            reasons.setdefault(name, f"what it ran before release {current.id}")
            ladders.setdefault(name, ladder_of(release, device, before))
            models.append(release.model)
    if not variants:
        raise UserError(
            f"no device of this rollout ran anything in '{current.slot}' before; there is"
            " nothing to go back to: cancel the rollout, or release something else"
        )
    back = fleet.Release(
        id=context.new_id(), model=models[0], slot=current.slot, variants=variants,
        reasons=reasons, ladders=ladders, counter=highest_counter(context, current.slot) + 1,
        created_at=context.clock(),
    )  # fmt: skip
    with context.store.transaction():
        context.store.releases.add(back)
        context.record("controller", "revert_created", back.id, {"of": current.id})
    return back


def ladder_of(
    release: fleet.Release, device: fleet.Device, deployment: fleet.Deployment
) -> tuple[fleet.Rung, ...]:
    """The rungs that a release names below what a device was given of it."""
    cohort = deployment.cohort or device.cohort
    for key in (cohort.key if cohort else "", device.profile):
        if release.variants.get(key) == deployment.variant and key in release.ladders:
            return release.ladders[key]
    return ()


def _before(
    context: Context, device: fleet.Device, current: fleet.Release
) -> fleet.Deployment | None:
    """What a device last committed in the slot in another release."""
    committed = context.store.deployments.find(device=device.name, outcome=Outcome.COMMITTED)
    others = [
        d for d in plan.own(device, committed) if d.slot == current.slot and d.release != current.id
    ]
    return max(others, key=lambda d: d.ended_at, default=None)
