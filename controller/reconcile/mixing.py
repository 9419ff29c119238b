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
_ROLLUPS_MAX = 20_000


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
    for name in CLASSES:
        for rollup in _told(context, mix.column(release.slot, name), made.created_at - BACK_S):
            group = _group(rollup, made, since, control)
            if group:
                groups[group].setdefault(name, []).append(rollup)
    return tuple(_compared(mix.mixed(group, found) for group, found in groups.items()))


def _told(context: Context, quantity: str, since_s: float) -> tuple[Rollup, ...]:
    asked = Query(
        quantity=quantity, period=Period.HOUR, since_s=max(0.0, since_s), limit=_ROLLUPS_MAX
    )  # fmt: skip
    return context.store.telemetry.rollups(asked)


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
