"""Devices that left what they committed: tried once more, then left alone."""

from __future__ import annotations

from controller.domain import eligible, fleet, plan
from controller.reconcile import zones
from controller.reconcile.context import Context


def _reopen(context: Context, device: fleet.Device, drifted: fleet.Deployment, why: str) -> None:
    """Try once more on a device that left its release by itself."""
    made = context.store.rollouts.get(drifted.rollout)
    again = fleet.Deployment(
        id=context.new_id(), rollout=drifted.rollout, release=drifted.release,
        device=device.name, slot=drifted.slot, variant=drifted.variant, wave=drifted.wave,
        created_at=context.clock(), cohort=device.cohort, attempt=drifted.attempt,
        fingerprint=device.reported.fingerprint if device.reported else None,
        reasons=(why,), windows=zones.spans_for(device, made, now=context.clock()) if made else (),
    )  # fmt: skip
    if made is not None and made.windows and not again.windows:
        return  # outside its windows nothing is switched, and none is left
    with context.store.transaction():
        context.store.deployments.add(again)
        details = {"device": device.name, "release": drifted.release, "reason": why}
        context.record("controller", "drift_reopened", again.id, details)


def check_drift(context: Context, name: str) -> float | None:
    """See whether a device still runs what it committed; try again once when it does not.

    Returns:
        When to look again, where a commit is too fresh to tell.
    """
    device = context.store.devices.get(name)
    if device is None or device.revoked:
        return None
    now = context.clock()
    every = plan.own(device, context.store.deployments.find(device=name))
    settled: list[float] = []
    for committed in plan.running(every).values():
        if now - committed.ended_at < plan.SETTLE_S:
            settled.append(committed.ended_at + plan.SETTLE_S)
        why = plan.drifted(device, committed, every, now=now)
        release = context.store.releases.get(committed.release) if why else None
        if release is not None and not eligible.is_ahead(device, release):
            _reopen(context, device, committed, why)
    return min(settled, default=None)
