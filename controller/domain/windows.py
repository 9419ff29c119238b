"""Maintenance windows: local times on named days, as moments.

A window is text such as ``Mon-Fri 02:00 +2h Europe/Berlin``: days (or one date), the local time at
which it opens, how long it stays open, and a time zone. The zone is that of devices which say
none of their own; with ``everywhere`` behind it, it is that of all of them.

One window opens on each named day. Where clocks are put forward over its time, it opens that much
later by the clock on the wall (RFC 5545, 3.3.5, the same rule as calendars have); where they are
put back over it, at the first of the two times. Its length is counted in real hours.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from controller.errors import UserError
from fitment.core.deployment import Span

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EXAMPLE: Final = "Mon-Fri 02:00 +2h Europe/Berlin"
EVERYWHERE: Final = "everywhere"
SHORTEST_S: Final = 300
"""A device measures and tries a variant out inside the window."""
LONGEST_S: Final = 7 * 86_400
MOST_SPANS: Final = 60
"""Sent with one order; a deployment that missed as many has other troubles."""
_DURATION: Final = re.compile(r"\+(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?\Z")

ZoneOf = Callable[["Window"], dt.tzinfo]
"""Whose time a window's is, on one device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When devices may switch."""

    days: tuple[int, ...]  # 0 is Monday; empty: `date` alone
    date: dt.date | None
    start: dt.time  # local
    duration_s: int
    zone: str  # IANA name
    everywhere: bool  # the zone holds for devices that say another one, too

    def __str__(self) -> str:
        """The text that `parse` takes."""
        day = self.date.isoformat() if self.date else _day_words(self.days)
        last = f" {EVERYWHERE}" if self.everywhere else ""
        return f"{day} {self.start:%H:%M} +{_duration_words(self.duration_s)} {self.zone}{last}"


def parse(text: str) -> Window:
    """Read a window.

    Raises:
        UserError: saying which part is none, and what it should look like.
    """
    parts = text.split()
    everywhere = len(parts) == 5 and parts[4] == EVERYWHERE
    if len(parts) != 4 + everywhere:
        raise UserError(
            f"a maintenance window is DAYS HH:MM +LENGTH ZONE, for example '{EXAMPLE}', not"
            f" '{text}'; '{EVERYWHERE}' behind it holds for devices that say another zone, too"
        )
    days, date = _days(parts[0])
    return Window(
        days=days, date=date, start=_start(parts[1]), duration_s=_duration(parts[2]),
        zone=parts[3], everywhere=everywhere,
    )  # fmt: skip


def spans(
    windows: Iterable[Window], zone_of: ZoneOf, *, after: float, until: float
) -> tuple[Span, ...]:
    """All that are open between two moments, in order and apart; those that touch are one.

    Args:
        windows: as asked for.
        zone_of: the zone in which a window's times are meant.
        after: unix seconds; what closes before is left out, what is open is kept whole.
        until: unix seconds; what opens later is left out.
    """
    found = [span for window in windows for span in _each(window, zone_of(window), after, until)]
    apart: list[Span] = []
    for span in sorted(found, key=lambda s: s.opens_unix):
        if apart and span.opens_unix <= apart[-1].closes_unix:
            closes = max(span.closes_unix, apart[-1].closes_unix)
            apart[-1] = Span(opens_unix=apart[-1].opens_unix, closes_unix=closes)
        else:
            apart.append(span)
    return tuple(apart)


def check(windows: Sequence[Window], zone_of: ZoneOf, *, now: float, deadline_s: float) -> None:
    """Refuse windows in which a device could never switch.

    Raises:
        UserError: none opens before the deadline of a device that is admitted now, or of one that
            is admitted just when a window has closed.
    """
    for window in windows:
        if window.date and not spans([window], zone_of, after=now, until=float("inf")):
            raise UserError(f"the maintenance window '{window}' is over: give a date to come")
    first = spans(windows, zone_of, after=now, until=now + max(deadline_s, 15 * 86_400.0))
    if windows and (not first or first[0].opens_unix > now + deadline_s):
        opens = f"opens in {words(first[0].opens_unix - now)}" if first else "opens in over 15 days"
        raise UserError(
            f"no device would switch: the next maintenance window {opens}, and a device has"
            f" {words(deadline_s)} for all of it; give a later --deadline, or another --window"
        )
    if any(window.days for window in windows):
        _check_gaps(first, deadline_s)


def closes_for_good(windows: Sequence[Window], zones_of: Iterable[ZoneOf]) -> float:
    """When the last of windows that do not repeat closes, in whichever zone; 0: some repeat."""
    if not windows or any(window.days for window in windows):
        return 0.0
    every = [s for zone_of in zones_of for s in spans(windows, zone_of, after=0.0, until=_FOR_EVER)]
    return float(max((s.closes_unix for s in every), default=0))


def coming(found: Sequence[Span], now: float) -> Span | None:
    """The one that is open, else the next; None when all are over."""
    return next((span for span in found if span.closes_unix > now), None)


def words(seconds: float) -> str:
    """A length of time for people: ``2 d 5 h``, ``3 h 20 min``, ``12 min``."""
    minutes = max(0, round(seconds / 60))
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    said = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(said[:2]) or "0 min"


def _check_gaps(found: Sequence[Span], deadline_s: float) -> None:
    """Whoever is admitted when a window closes must live to see the next."""
    for one, other in itertools.pairwise(found):
        gap_s = other.opens_unix - one.closes_unix
        if gap_s > deadline_s:
            raise UserError(
                f"a device that is admitted when a maintenance window closes waits {words(gap_s)}"
                f" for the next, and has {words(deadline_s)} for all of it; give a --deadline"
                f" of more than {words(gap_s)}"
            )


_FOR_EVER: Final = 253_402_214_400.0  # the last day that a calendar has


def _each(window: Window, zone: dt.tzinfo, after: float, until: float) -> Iterable[Span]:
    if window.date is not None:
        dates: Iterable[dt.date] = (window.date,)
    else:
        # A day to either side: the local date may be another than that of UTC.
        first = _date(after - window.duration_s - 2 * 86_400.0)
        count = max(0, (_date(until + 2 * 86_400.0) - first).days)
        every = (first + dt.timedelta(days=n) for n in range(count))
        dates = (date for date in every if date.weekday() in window.days)
    for date in dates:
        opens = int(dt.datetime.combine(date, window.start, tzinfo=zone).timestamp())
        if opens + window.duration_s > after and opens <= until:
            yield Span(opens_unix=opens, closes_unix=opens + window.duration_s)


def _date(unix: float) -> dt.date:
    return dt.datetime.fromtimestamp(min(unix, _FOR_EVER), tz=dt.timezone.utc).date()


def _days(text: str) -> tuple[tuple[int, ...], dt.date | None]:
    if text[:1].isdigit():
        try:
            date = dt.date.fromisoformat(text)
        except ValueError as error:
            raise UserError(f"'{text}' is no date; write it as 2026-12-31") from error
        if not 1971 <= date.year <= 2199:
            raise UserError(f"'{text}' is no date of this age; write it as 2026-12-31")
        return (), date
    if text.lower() == "daily":
        return tuple(range(7)), None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        from_, to = _day(first, text), _day(last if dash else first, text)
        found |= {(from_ + n) % 7 for n in range((to - from_) % 7 + 1)}
    return tuple(sorted(found)), None


def _day(text: str, whole: str) -> int:
    names = [day.lower() for day in DAYS]
    if text.lower() not in names:
        raise UserError(
            f"'{text}' in '{whole}' is no day; days are {', '.join(DAYS)}, a range such as Mon-Fri,"
            " a list such as Sat,Sun, 'daily', or one date such as 2026-12-31"
        )
    return names.index(text.lower())


def _start(text: str) -> dt.time:
    match = re.fullmatch(r"(\d{1,2}):(\d\d)", text)
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise UserError(f"'{text}' is no time of day; write it as 02:00, from 00:00 to 23:59")
    return dt.time(int(match[1]), int(match[2]))


def _duration(text: str) -> int:
    match = _DURATION.match(text)
    if match is None or len(text) < 3:
        raise UserError(f"'{text}' is no length; write it as +2h, +90m or +1h30m")
    days, hours, minutes = (int(part or 0) for part in match.groups())
    seconds = days * 86_400 + hours * 3600 + minutes * 60
    if not SHORTEST_S <= seconds <= LONGEST_S:
        wrong = "short" if seconds < SHORTEST_S else "long"
        raise UserError(
            f"a maintenance window of {words(seconds)} is too {wrong}: devices measure and switch"
            " inside it, so it lasts from 5 minutes to 7 days"
        )
    return seconds


def _day_words(days: Sequence[int]) -> str:
    """``daily``, ``Mon-Fri``, or the days one by one."""
    if len(days) == 7:
        return "daily"
    if len(days) > 2 and days[-1] - days[0] == len(days) - 1:
        return f"{DAYS[days[0]]}-{DAYS[days[-1]]}"
    return ",".join(DAYS[day] for day in days)


def _duration_words(seconds: int) -> str:
    parts = ((seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
