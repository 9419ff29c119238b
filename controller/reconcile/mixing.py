"""Which answers devices give, with the new release and without it, from what they sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from controller.domain import fleet, holding, mix
from controller.domain.mix import Mix
from controller.domain.telemetry import Period, Query, Rollup
from controller.reconcile.context import Context
from fitment.core.deployment import Outcome

BACK_S = 7 * 86400.0
"""How long before a rollout its devices' old answers are looked at."""
CLASSES = (*(str(number) for number in range(16)), "rest")
"""Names under which agents tell the shares of classes."""
SINCE_S = 28 * 86400.0
"""How long from then on its new answers are; an hour of all classes for so long fits a query."""
ROLLUPS_MOST = 200_000
"""After so many no further device is read: those that were are drawn, and a mix says how many."""


def of(context: Context, made: fleet.Rollout) -> tuple[Mix, ...]:
    """Old, new and control; each but the old ones with how far it is from those."""
    release = context.store.releases.get(made.release)
    if release is None:
        return ()
    since = {
        d.device: d.ended_at
        for d in context.store.deployments.find(rollout=made.id)
        if d.outcome is Outcome.COMMITTED
    }
    devices = context.store.devices.find(revoked=False) if made.control_below else ()
    control = {d.name for d in devices if holding.is_held(made, d)}
    groups: dict[str, dict[str, list[Rollup]]] = {"old": {}, "new": {}, "control": {}}
    names = {mix.column(release.slot, name): name for name in CLASSES}
    read = 0
    for device in sorted({*since, *control}, key=lambda name: holding.place(made.id, name)):
        told = _told(context, mix.column(release.slot, ""), device, made, since.get(device))
        for rollup in told:
            group = _group(rollup, made, since, control)
            if group and rollup.quantity in names:
                groups[group].setdefault(names[rollup.quantity], []).append(rollup)
        read += len(told)
        if read > ROLLUPS_MOST:
            break
    return tuple(_compared(mix.mixed(group, found) for group, found in groups.items()))


def _told(
    context: Context, prefix: str, device: str, made: fleet.Rollout, since_s: float | None
) -> list[Rollup]:
    """What one device answered before the rollout and with it, from its commit or its beginning."""
    begins = made.created_at - Period.HOUR.seconds if since_s is None else since_s
    spans = [(begins, begins + SINCE_S)]
    if since_s is not None:
        spans.append((made.created_at - BACK_S, made.created_at))
    return [
        rollup
        for first, until in spans
        for rollup in context.store.telemetry.rollups(
            Query(
                quantity=prefix, prefix=True, device=device, since_s=max(0.0, first), until_s=until
            )
        )
    ]


def _group(rollup: Rollup, made: fleet.Rollout, since: dict[str, float], control: set[str]) -> str:
    """Hours in which a device changed sides are of none."""
    device, begins = rollup.origin.device, float(rollup.start_s)
    if device in control:
        return "control" if begins >= made.created_at - Period.HOUR.seconds else ""
    if device not in since:
        return ""
    if begins + Period.HOUR.seconds <= made.created_at:
        return "old"
    return "new" if begins >= since[device] else ""


def _compared(found: Iterable[Mix | None]) -> list[Mix]:
    groups = {one.group: one for one in found if one is not None}
    old = groups.get("old")
    return [
        one if old is None or one is old else replace(one, moved=mix.apart(one, old))
        for one in groups.values()
    ]
