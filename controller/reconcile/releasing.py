"""Releases: which variant each cohort gets, with a counter that only rises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.domain import fleet
from controller.domain.fleet import JobStatus
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import fitting
from controller.reconcile.context import Context
from fitment.core.bundle import ReleaseManifest
from fitment.core.deployment import CalibrationMode, CalibrationPlan, DeviceGates

_AGREEMENT_FLOOR = 0.9
"""A device whose answers differ more from fp32 runs something else than what was fitted."""


def create(
    context: Context, model_id: str, *, jobs: Sequence[str] = (), trigger: bool = False
) -> fleet.Release:
    """A release of the choices of finished fits: of ``jobs``, or the newest of each cohort.

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
        counter=_next_counter(context, model.name),
    )  # fmt: skip
    variants, reasons, gates, calibration = {}, {}, {}, {}
    for key, job in chosen.items():
        if job.choice is None:
            continue
        profile = job.cohort.profile
        variant = next(v for v in job.variants if v.bundle.variant == job.choice.chosen)
        for name in (key, profile):
            if name in variants and name == profile:
                continue  # the first cohort of a profile is its fallback
            variants[name], reasons[name] = job.choice.chosen, job.choice.reason
            gates[name] = _gates(fitting.budget_of(model, profile), trigger=trigger)
            if variant.calibratable and profile in model.calibrate_profiles:
                calibration[name] = CalibrationPlan(mode=CalibrationMode.MOMENTS)
    return replace(
        release, variants=variants, reasons=reasons, gates=gates, calibration=calibration
    )


def _gates(budget: fleet.Budget, *, trigger: bool) -> DeviceGates:
    """What a device must see; after a changed stack its old baseline is no measure."""
    return DeviceGates(
        latency_p95_max_ms=budget.latency_p95_max_ms,
        latency_ratio_max=None if trigger else 1.5,
        agreement_min=budget.agreement_min or _AGREEMENT_FLOOR,
        peak_memory_max_bytes=budget.peak_memory_max_bytes,
        energy_max_mj=budget.energy_max_mj,
    )


def _next_counter(context: Context, slot: str) -> int:
    """Above every release of the slot and above what any device says it runs."""
    ours = [r.counter for r in context.store.releases.find(slot=slot)]
    theirs = [
        report.counter
        for device in context.store.devices.find()
        if device.reported is not None
        for report in device.reported.slots
        if report.slot == slot
    ]
    return max([0, *ours, *theirs]) + 1


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
    )  # fmt: skip
    context.trust.repository.approve(manifest)
    approved = replace(release, approved_at=context.clock())
    with context.store.transaction():
        context.store.releases.put(approved)
        context.record(actor, "release_approved", release.id, {"counter": str(release.counter)})
    return approved


def revert_of(context: Context, rollout: fleet.Rollout) -> fleet.Release:
    """A new release, with a higher counter, of what the devices ran before.

    Raises:
        UserError: there is no earlier release to go back to.
    """
    current = context.store.releases.get(rollout.release)
    slot = current.slot if current else ""
    earlier = [
        r
        for r in context.store.releases.find(slot=slot)
        if current and r.counter < current.counter and r.approved_at
    ]
    if not earlier:
        raise UserError("there is no earlier approved release of this slot to go back to")
    previous = earlier[-1]
    back = replace(
        previous, id=context.new_id(), counter=_next_counter(context, slot),
        created_at=context.clock(), approved_at=0.0, gates={},
    )  # fmt: skip
    with context.store.transaction():
        context.store.releases.add(back)
        context.record("controller", "revert_created", back.id, {"of": previous.id})
    return back
