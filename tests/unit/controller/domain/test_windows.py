"""Local windows as moments: clocks that go forward and back, every zone, and what is refused."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from itertools import pairwise

import pytest

from controller.domain.windows import (
    LONGEST_S,
    SHORTEST_S,
    Window,
    check,
    closes_for_good,
    coming,
    parse,
    spans,
    words,
)
from controller.errors import UserError
from fitment.core.deployment import Span

DAY = 86_400.0
ZONES = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo", "Asia/Beirut", "America/Havana",  # put forward at midnight
    "Pacific/Apia", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu", "UTC",
)  # fmt: skip


def unix(text: str, zone: str = "UTC") -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


def own(window: Window) -> dt.tzinfo:
    return zoneinfo.ZoneInfo(window.zone)


def shown(text: str, after: str, until: str) -> list[str]:
    """Openings and closings in UTC."""
    found = spans([parse(text)], own, after=unix(after), until=unix(until))
    moments = [(s.opens_unix, s.closes_unix) for s in found]
    return [
        "{:%m-%d %H:%M} {:%m-%d %H:%M}".format(
            *(dt.datetime.fromtimestamp(at, tz=dt.timezone.utc) for at in pair)
        )
        for pair in moments
    ]


@pytest.mark.parametrize(
    ("text", "after", "until", "expected"),
    [
        ("Mon-Fri 02:00 +2h Europe/Berlin", "2026-11-26", "2026-12-01T12:00",
         ["11-26 01:00 11-26 03:00", "11-27 01:00 11-27 03:00", "11-30 01:00 11-30 03:00",
          "12-01 01:00 12-01 03:00"]),
        # 29 March 2026: 02:00 to 03:00 is no time in Berlin; it opens at 03:30 summer time
        ("Sun 02:30 +1h Europe/Berlin", "2026-03-28", "2026-03-30", ["03-29 01:30 03-29 02:30"]),
        # 25 October 2026: 02:30 is twice; it opens at the first
        ("Sun 02:30 +1h Europe/Berlin", "2026-10-24", "2026-10-26", ["10-25 00:30 10-25 01:30"]),
        # over the change its length stays what it is
        ("Sun 01:30 +2h Europe/Berlin", "2026-03-28", "2026-03-30", ["03-29 00:30 03-29 02:30"]),
        ("Sun 01:30 +3h Europe/Berlin", "2026-10-24", "2026-10-26", ["10-24 23:30 10-25 02:30"]),
        # over midnight it belongs to the day on which it opens
        ("Fri 23:00 +4h America/New_York", "2026-11-27", "2026-11-30", ["11-28 04:00 11-28 08:00"]),
        # what is open already counts, as a whole
        ("Fri 23:00 +4h America/New_York", "2026-11-28T07:00", "2026-11-30",
         ["11-28 04:00 11-28 08:00"]),
        ("Fri 23:00 +4h America/New_York", "2026-11-28T08:00", "2026-11-30", []),
        ("2026-12-31 22:00 +1h Asia/Tokyo", "2026-01-01", "2027-02-01",
         ["12-31 13:00 12-31 14:00"]),
        ("daily 00:00 +1d UTC", "2026-11-26T05:00", "2026-11-28T05:00",
         ["11-26 00:00 11-29 00:00"]),
        # Samoa had no 30 December 2011
        ("daily 10:00 +1h Pacific/Apia", "2011-12-29T12:00", "2011-12-31T12:00",
         ["12-29 20:00 12-29 21:00", "12-30 20:00 12-30 21:00"]),
    ],
)  # fmt: skip
def test_rows(text: str, after: str, until: str, expected: list[str]) -> None:
    assert shown(text, after, until) == expected


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("zone", ZONES)
def test_one_window_a_named_day_of_its_length_in_every_zone(zone: str, seed: int) -> None:
    """Judged by the calendar of the zone itself, over days that hold its changes of clocks."""
    chance = random.Random(f"{zone}{seed}")
    window = Window(
        days=tuple(sorted(chance.sample(range(7), chance.randint(1, 7)))), date=None,
        start=dt.time(chance.randint(0, 23), chance.choice((0, 15, 30, 59))),
        duration_s=chance.randint(SHORTEST_S, 6 * 3600) // 60 * 60, zone=zone, everywhere=False,
    )  # fmt: skip
    after = unix("2025-01-01") + chance.uniform(0, 900) * DAY
    until = after + 40 * DAY
    found = spans([window], own, after=after, until=until)
    dates = []
    for span in found:
        assert span.closes_unix - span.opens_unix == window.duration_s
        assert span.closes_unix > after
        assert span.opens_unix <= until
        local = dt.datetime.fromtimestamp(span.opens_unix, tz=own(window))
        dates.append(local.date())
        if local.time() != window.start:  # that time was left out on that day
            wanted = dt.datetime.combine(local.date(), window.start, tzinfo=own(window))
            back = wanted.astimezone(dt.timezone.utc).astimezone(own(window))
            assert back.time() != window.start
            assert local > wanted
    assert all(date.weekday() in window.days for date in dates)
    first = dt.datetime.fromtimestamp(after, tz=own(window)).date() + dt.timedelta(days=1)
    last = dt.datetime.fromtimestamp(until, tz=own(window)).date() - dt.timedelta(days=1)
    every = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    assert [d for d in every if d.weekday() in window.days] == [
        d for d in dates if first <= d <= last
    ]


@pytest.mark.parametrize("seed", range(40))
def test_several_windows_give_spans_that_are_apart(seed: int) -> None:
    chance = random.Random(seed)
    windows = [
        Window(
            days=tuple(sorted(chance.sample(range(7), chance.randint(1, 7)))), date=None,
            start=dt.time(chance.randint(0, 23)), duration_s=chance.randint(1, 30) * 3600,
            zone=chance.choice(ZONES), everywhere=False,
        )
        for _ in range(3)
    ]  # fmt: skip
    after = unix("2026-01-01") + chance.uniform(0, 365) * DAY
    found = spans(windows, own, after=after, until=after + 20 * DAY)
    assert all(a.closes_unix < b.opens_unix for a, b in pairwise(found))
    for at in (after + chance.uniform(0, 20) * DAY for _ in range(50)):
        alone = any(
            s.opens_unix <= at < s.closes_unix
            for w in windows
            for s in spans([w], own, after=after, until=after + 20 * DAY)
        )
        assert alone == any(s.opens_unix <= at < s.closes_unix for s in found)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Mon-Fri 02:00 +2h Europe/Berlin", "Mon-Fri 02:00 +2h Europe/Berlin"),
        ("mon,TUE 2:00 +90m UTC everywhere", "Mon,Tue 02:00 +1h30m UTC everywhere"),
        ("Fri-Mon 0:30 +1d UTC", "Mon,Fri,Sat,Sun 00:30 +1d UTC"),
        ("mon-sun 0:30 +5m UTC", "daily 00:30 +5m UTC"),
        ("2026-12-31 22:00 +1d2h3m UTC", "2026-12-31 22:00 +1d2h3m UTC"),
    ],
)
def test_the_text_and_the_window_say_the_same(text: str, same: str) -> None:
    window = parse(text)
    assert str(window) == same
    assert parse(same) == window


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "DAYS HH:MM \\+LENGTH ZONE, for example 'Mon-Fri 02:00 \\+2h Europe/Berlin'"),
        ("Mon 02:00 +2h", "DAYS HH:MM"),
        ("Mon 02:00 +2h UTC always", "'everywhere' behind it"),
        ("Mun 02:00 +2h UTC", "'Mun' in 'Mun' is no day"),
        ("Mon- 02:00 +2h UTC", "is no day"),
        ("2026-02-30 02:00 +2h UTC", "is no date"),
        ("2026 02:00 +2h UTC", "is no date"),
        ("9999-12-31 02:00 +2h UTC", "is no date of this age"),
        ("Mon 24:00 +2h UTC", "'24:00' is no time of day"),
        ("Mon 2 +2h UTC", "'2' is no time of day"),
        ("Mon 02:00 2h UTC", "'2h' is no length"),
        ("Mon 02:00 + UTC", "is no length"),
        ("Mon 02:00 +2x UTC", "is no length"),
        ("Mon 02:00 +0h UTC", "of 0 min is too short"),
        ("Mon 02:00 +4m UTC", "of 4 min is too short"),
        ("Mon 02:00 +8d UTC", "of 8 d is too long"),
    ],
)
def test_what_is_no_window_is_told_apart(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(text)


TUESDAY = unix("2026-11-24T15:00")


@pytest.mark.parametrize(
    ("texts", "deadline_s", "says"),
    [
        (["2026-11-23 02:00 +2h UTC"], 8 * DAY, "'2026-11-23 02:00 \\+2h UTC' is over"),
        (["2026-12-24 02:00 +2h UTC"], 8 * DAY, "opens in over 15 days, and a device has 8 d"),
        (["Mon-Fri 02:00 +2h Europe/Berlin"], 3600.0, "opens in 10 h, and a device has 1 h"),
        (["daily 16:00 +2h UTC"], 3 * 3600.0, "closes waits 22 h for the next, and has 3 h"),
        (["Tue 16:00 +2h UTC"], 6 * DAY, "waits 6 d 22 h"),
    ],
)
def test_a_window_in_which_nobody_could_switch_is_refused(
    texts: list[str], deadline_s: float, says: str
) -> None:
    windows = [parse(text) for text in texts]
    with pytest.raises(UserError, match=says):
        check(windows, own, now=TUESDAY, deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("texts", "deadline_s"),
    [
        ([], 1.0),
        (["Mon-Fri 02:00 +2h Europe/Berlin"], 8 * DAY),
        (["Tue 14:30 +2h UTC"], 7 * DAY),  # open now
        (["2026-11-24 02:00 +14h UTC"], 3600.0),
        (["Tue 16:00 +2h UTC", "daily 02:00 +2h UTC"], 23 * 3600.0),
        (["Sun 02:00 +7d UTC"], 60.0),  # always
    ],
)
def test_windows_in_which_a_device_could_switch(texts: list[str], deadline_s: float) -> None:
    check([parse(text) for text in texts], own, now=TUESDAY, deadline_s=deadline_s)


def test_only_dates_close_for_good() -> None:
    once, often = parse("2026-12-01 02:00 +2h UTC"), parse("Mon 02:00 +2h UTC")
    west = zoneinfo.ZoneInfo("America/New_York")
    assert closes_for_good([], [own]) == closes_for_good([once, often], [own]) == 0.0
    assert closes_for_good([once], [own]) == unix("2026-12-01T04:00")
    assert closes_for_good([once], [own, lambda _: west]) == unix("2026-12-01T09:00")


def test_coming() -> None:
    first, second = Span(opens_unix=10, closes_unix=20), Span(opens_unix=30, closes_unix=40)
    found = [coming((first, second), at) for at in (0.0, 10.0, 19.9, 20.0, 39.0, 40.0)]
    assert found == [first, first, first, second, second, None]


def test_lengths_in_words() -> None:
    assert [words(s) for s in (0, 59, 3600, 12_000, LONGEST_S - 60)] == [
        "0 min", "1 min", "1 h", "3 h 20 min", "6 d 23 h",
    ]  # fmt: skip
