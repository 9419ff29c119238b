"""What each device is asked for: signed orders for what has not ended yet.

The generation rises when, and only when, the content changes; SQL is the truth, so the same
desired state is published again whenever a device comes back.
"""

from __future__ import annotations

from dataclasses import replace

from controller.domain import fleet
from controller.reconcile.context import Context
from fitment.core import digest
from fitment.core.deployment import (
    Assignment,
    BenchmarkPlan,
    BundleRef,
    CalibrationPlan,
    DesiredState,
    DeviceGates,
    Study,
    StudyKind,
)
from fitment.core.link import Downlink

STUDY_PLAN = BenchmarkPlan(min_runs=200, min_seconds=0.5, max_seconds=4.0, warmup_max_seconds=1.5)
DEPLOY_PLAN = BenchmarkPlan(min_runs=300, min_seconds=0.8, max_seconds=8.0, warmup_max_seconds=2.0)


def publish(context: Context, name: str, *, again: bool = False) -> None:
    """Bring one device's desired state up to date and send it when it changed."""
    device = context.store.devices.get(name)
    if device is None or device.revoked:
        return
    deployments = [d for d in context.store.deployments.find(device=name) if d.outcome is None]
    studies = [s for s in context.store.studies.find(device=name) if not s.done_at]
    key = digest.digest_of([[d.id for d in deployments], [s.id for s in studies]])
    if key == device.desired_key and not again:
        return
    if key != device.desired_key:
        device = replace(device, generation=_next(device), desired_key=key)
        context.store.devices.put(device)
    desired = DesiredState(
        generation=device.generation,
        assignments=tuple(
            context.trust.director.sign(order)
            for order in (_assignment(context, device, d) for d in deployments)
            if order is not None
        ),
        studies=tuple(context.trust.director.sign(_study(s)) for s in studies),
        telemetry_interval_s=5.0,
        reconnect_jitter_s=1.0,
    )
    context.publish(name, Downlink(desired=desired))


def _next(device: fleet.Device) -> int:
    """Above what was published and what the device says it saw: a restored store catches up."""
    observed = device.reported.observed_generation if device.reported else 0
    return max(device.generation, observed) + 1


def _assignment(
    context: Context, device: fleet.Device, deployment: fleet.Deployment
) -> Assignment | None:
    release = context.store.releases.get(deployment.release)
    rollout = context.store.rollouts.get(deployment.rollout)
    bundle = find_bundle(context, release.model, deployment.variant) if release else None
    if release is None or rollout is None or bundle is None:
        return None
    keys = [device.cohort.key if device.cohort else "", device.profile]
    gates = next((release.gates[k] for k in keys if k in release.gates), DeviceGates())
    plan = next((release.calibration[k] for k in keys if k in release.calibration), None)
    return Assignment(
        device=device.name, deployment=deployment.id, rollout=rollout.id, release=release.id,
        release_target=f"releases/{release.id}.json", slot=release.slot, counter=release.counter,
        bundle=bundle, gates=gates, benchmark=DEPLOY_PLAN, calibration=plan or CalibrationPlan(),
        deadline_s=rollout.deadline_s,
    )  # fmt: skip


def find_bundle(context: Context, model: str, variant: str) -> BundleRef | None:
    """The bundle of a variant of a model version, from any of its fits."""
    for job in context.store.jobs.find(model=model):
        for candidate in job.variants:
            if candidate.bundle.variant == variant:
                return candidate.bundle
    return None


def _study(record: fleet.StudyRecord) -> Study:
    plan = replace(STUDY_PLAN, min_seconds=0.05) if record.kind is StudyKind.PROBE else STUDY_PLAN
    return Study(
        id=record.id, kind=record.kind, device=record.device, bundle=record.bundle, benchmark=plan
    )
