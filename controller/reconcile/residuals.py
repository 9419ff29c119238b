"""What devices of a profile measured beside what was predicted for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.domain import fleet, ranking
from controller.domain.residuals import Pair, Residual, corrected, learn
from controller.reconcile.context import Context
from fitment.core.measurement import Measurement, Verdict

JOBS_MOST = 50
"""Newest fits of a profile that are learnt from."""


def of_profile(context: Context, profile: str) -> tuple[Residual, ...]:
    """Factors for later predictions of a profile.

    A pair is of one cohort: what was predicted from its kernels, and what one of its devices
    measured undisturbed. Devices that are a case for service teach nothing, and hosts that stand
    in for a board only where no board has measured.
    """
    done = context.store.jobs.find(status=fleet.JobStatus.DONE)
    jobs = [job for job in done if job.cohort.profile == profile][-JOBS_MOST:]
    ill = {ticket.device for ticket in context.store.tickets.find(closed_at=0.0)}
    found: dict[tuple[str, str, str], tuple[bool, Pair]] = {}
    for job in jobs:
        for device, taken in _taken(context, job):
            variant = next((v for v in job.variants if v.bundle.variant == taken.bundle), None)
            ms = ranking.measured_ms(taken)
            if variant is None or not variant.predicted_parts or device in ill or ms is None:
                continue
            if taken.verdict is Verdict.VALID:
                key = (job.cohort.key, device, taken.bundle)
                found[key] = (taken.emulated, _pair(device, variant, ms))
    boards = [pair for emulated, pair in found.values() if not emulated]
    return learn(boards or [pair for _, pair in found.values()])


def _pair(device: str, variant: fleet.Variant, measured_ms: float) -> Pair:
    return Pair(
        device=device, runtime=variant.runtime, scheme=variant.scheme,
        parts=variant.predicted_parts, measured_ms=measured_ms,
    )  # fmt: skip


def _taken(context: Context, job: fleet.FitJob) -> list[tuple[str, Measurement]]:
    """By device of the job's cohort: for its studies, and in the field."""
    studies = [context.store.studies.get(key) for key in job.studies]
    found = [(s.device, s.measurement) for s in studies if s is not None and s.measurement]
    for release in context.store.releases.find(model=job.model):
        found += [
            (d.device, d.measurement)
            for d in context.store.deployments.find(release=release.id)
            if d.cohort == job.cohort and d.measurement is not None
        ]
    return found


def priced(
    variants: Sequence[fleet.Variant], residuals: Sequence[Residual]
) -> tuple[fleet.Variant, ...]:
    """The same with predictions as these residuals correct them."""
    return tuple(_priced(variant, residuals) for variant in variants)


def _priced(variant: fleet.Variant, residuals: Sequence[Residual]) -> fleet.Variant:
    if variant.predicted is None or not variant.predicted_parts:
        return variant
    value, devices = corrected(variant.predicted_parts, residuals, variant.runtime)
    return replace(variant, predicted=replace(variant.predicted, value=value, devices=devices))
