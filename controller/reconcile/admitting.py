"""A device's turn in a rollout: its deployment begins, and may be ended from here."""

from __future__ import annotations

from dataclasses import replace

from controller.domain import eligible, fleet, plan, rollout
from controller.reconcile import standing, zones
from controller.reconcile.context import Context
from fitment.core.deployment import DeploymentState, Outcome


def admit(
    context: Context, made: fleet.Rollout, release: fleet.Release, step: rollout.Admit
) -> None:
    """Begin a deployment; what is under way in its slot gives way, unless it is newer."""
    device = context.store.devices.get(step.device)
    if device is None:
        return
    if newer_under_way(context, device, release) is not None:
        return  # when it is there, this device is ahead
    for older in _under_way(context, device, release):
        words = f"release {release.id} (counter {release.counter}) takes its place"
        end(context, older, Outcome.SUPERSEDED, words)
    deployment = fleet.Deployment(
        id=context.new_id(), rollout=made.id, release=release.id, device=device.name,
        slot=release.slot, variant=eligible.variant_for(release, device), wave=step.wave,
        created_at=context.clock(), cohort=device.cohort, attempt=_attempt(context, made, device),
        fingerprint=device.reported.fingerprint if device.reported else None,
        **standing.before(context, made.gate, device, release.slot),
        windows=zones.spans_for(device, made, now=context.clock()),
    )  # fmt: skip
    context.store.deployments.add(deployment)
    details = {"device": device.name, "wave": str(step.wave), "rollout": made.id}
    context.record("controller", "admitted_to_wave", deployment.id, details)
    if made.windows and not deployment.windows:  # in its zone the last one is over already
        end(context, deployment, Outcome.CANCELLED, "no maintenance window is left for it")


def newer_under_way(
    context: Context, device: fleet.Device, release: fleet.Release
) -> fleet.Release | None:
    """A later release of the same slot that a device is at, and which must not be displaced."""
    found = [context.store.releases.get(d.release) for d in _under_way(context, device, release)]
    return next((r for r in found if r is not None and r.counter > release.counter), None)


def _under_way(
    context: Context, device: fleet.Device, release: fleet.Release
) -> list[fleet.Deployment]:
    others = context.store.deployments.find(device=device.name, outcome=None)
    return [d for d in others if d.slot == release.slot]


def _attempt(context: Context, made: fleet.Rollout, device: fleet.Device) -> int:
    """Which attempt of the device the next one is: another where an operator asked for it."""
    every = context.store.deployments.find(rollout=made.id, device=device.name)
    before = plan.own(device, every)
    if not before:
        return 1
    return before[-1].attempt + (before[-1].id in made.retried)


def end(context: Context, deployment: fleet.Deployment, outcome: Outcome, reason: str) -> None:
    """End it here, with the reason on record; the device is told by its desired state."""
    ended = replace(
        deployment, state=DeploymentState.IDLE, outcome=outcome, ended_at=context.clock(),
        reasons=(*deployment.reasons, reason),
    )  # fmt: skip
    context.store.deployments.put(ended)
    details = {"outcome": outcome.value, "reasons": reason}
    context.record("controller", "deployment_ended", deployment.id, details)
