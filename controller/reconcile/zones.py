"""Time zones: whose time a maintenance window means, and the machine's zone database."""

from __future__ import annotations

import datetime as dt
import difflib
import logging
import zoneinfo
from collections.abc import Callable, Sequence

from controller.domain import fleet
from controller.domain import windows as rules
from controller.domain.eligible import keeps_to_windows
from controller.domain.windows import MOST_SPANS, Window, parse, spans
from controller.errors import UserError
from fitment.core.deployment import Span

LABEL = "time_zone"
"""The label by which an operator says where a device is; it beats what the device says."""

log = logging.getLogger("controller.reconcile")


def zone(name: str) -> dt.tzinfo:
    """A zone by its IANA name.

    Raises:
        UserError: there is none of that name, or this machine has no zone database.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = zoneinfo.available_timezones()
        if not known:
            raise UserError(
                "this machine has no time zone database: install its package 'tzdata'"
            ) from error
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"'{name}' is no IANA time zone, such as Europe/Berlin{hint}") from error


def read(texts: Sequence[str]) -> tuple[Window, ...]:
    """Windows from their texts.

    Raises:
        UserError: one cannot be read, or its zone is not known.
    """
    windows = tuple(parse(text) for text in texts)
    for window in windows:
        zone(window.zone)
    return windows


def zones_for(device: fleet.Device | None) -> Callable[[Window], dt.tzinfo]:
    """Whose time a window means on one device: its label's, what it says, or the window's."""
    own = next((known for name in named(device) if (known := _known(name))), None)

    def meant(window: Window) -> dt.tzinfo:
        return zone(window.zone) if own is None or window.everywhere else own

    return meant


def check(windows: Sequence[Window], devices: Sequence[fleet.Device], made: fleet.Rollout) -> float:
    """See that each of the devices could switch.

    Returns:
        When the last window closes for good, 0 where they repeat.

    Raises:
        UserError: for some device none opens in time, or no agent would keep to them.
    """
    if not windows:
        return 0.0
    told = [device for device in devices if device.reported is not None]
    if told and not any(keeps_to_windows(device) for device in told):
        raise UserError(
            "no agent of the selection keeps to maintenance windows: bring them up to date first,"
            " or leave --window out"
        )
    elsewhere = {named(device): zones_for(device) for device in devices}
    every = [zones_for(None), *elsewhere.values()]
    for zone_of in every:
        rules.check(windows, zone_of, now=made.created_at, deadline_s=made.deadline_s)
    return rules.closes_for_good(windows, every)


def spans_for(device: fleet.Device, made: fleet.Rollout, *, now: float) -> tuple[Span, ...]:
    """The moments between which a device may switch, until its deadline; empty: at any time.

    Also empty where a rollout has windows and none is left: such a device gets no order.
    """
    windows = tuple(parse(text) for text in made.windows)
    found = spans(windows, zones_for(device), after=now, until=now + made.deadline_s)
    return found[:MOST_SPANS]


def repeating(texts: Sequence[str]) -> tuple[str, ...]:
    """Those of a rollout's windows that later rollouts can have, too."""
    return tuple(text for text in texts if parse(text).days)


def named(device: fleet.Device | None) -> tuple[str, ...]:
    """Names of the zone that a device is in: its label's, then what it says of itself."""
    if device is None:
        return ()
    said = device.reported.time_zone if device.reported is not None else ""
    return tuple(name for name in (device.labels.get(LABEL, ""), said) if name)


def _known(name: str) -> dt.tzinfo | None:
    try:
        return zone(name)
    except UserError as error:
        log.warning("action=zone_unknown reason=%s", error)
        return None
