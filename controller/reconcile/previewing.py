"""What a rollout would do: the same checks as its creation, and nothing is kept."""

from __future__ import annotations

from controller.domain import eligible, fleet
from controller.domain.eligible import Bar, Barred
from controller.domain.preview import Preview, preview
from controller.reconcile import admitting, rolling, zones
from controller.reconcile.context import Context


def of(context: Context, release_id: str, asked: rolling.RolloutPlan) -> Preview:
    """Who would get what, in which wave, and why the others would not.

    Raises:
        NotFound: as for `rolling.create`.
        UserError: as for `rolling.create`.
    """
    made, release = rolling.drafted(context, release_id, asked)
    now = context.clock()
    targets, others = [], []
    for device in _in_order(context, made):
        why = eligible.barred(made, release, device) or eligible.held_up(made, device, now=now)
        why = why or _hindered(context, made, release, device)
        if why is None:
            targets.append(device)
        else:
            others.append((device, why))
    return preview(made, release, targets, others, now=now)


def _in_order(context: Context, made: fleet.Rollout) -> list[fleet.Device]:
    """Devices in the order of their admission, those that were named first."""
    every = context.store.devices.find(revoked=False)
    places = {name: place for place, name in enumerate(made.devices)}
    return sorted(every, key=lambda device: places.get(device.name, len(places)))


def _hindered(
    context: Context, made: fleet.Rollout, release: fleet.Release, device: fleet.Device
) -> Barred | None:
    """What admission itself would find at this moment."""
    newer = admitting.newer_under_way(context, device, release)
    if newer is not None:
        reason = f"a later release ({newer.id}, counter {newer.counter}) is on its way to it"
        return Barred(bar=Bar.NEWER_UNDER_WAY, reason=reason)
    if made.windows and not zones.spans_for(device, made, now=context.clock()):
        reason = "no maintenance window opens for it before its deadline"
        return Barred(bar=Bar.NO_WINDOW, reason=reason)
    return None
