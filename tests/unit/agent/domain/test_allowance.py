"""What may be transferred and written: caps, months, metered links, and clocks that jump."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from agent.domain.allowance import (
    Allowance,
    Books,
    Counter,
    Metered,
    MeteredTransfers,
    Metering,
    Spent,
    day_of,
    hold,
    kept_batches,
    month_of,
    sample_factor,
    size,
    spent,
)

MONTH_CAP, DAY_CAP = 1000, 900
PHONE = Metering(metered=True, why="wwan0 is a modem's line")
UNKNOWN = Metering(why="nothing says it")


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp()


NOW = at("2026-11-24 12:00")

WAITS: dict[str, tuple[dict[str, Any], Spent, Metering, dict[str, Any], str]] = {
    "no cap": ({}, Spent(transferred=10**12), UNKNOWN, {}, ""),
    "room": ({"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=900), UNKNOWN, {}, ""),
    "one too many": (
        {"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=901), UNKNOWN, {},
        "this needs 100 bytes of transfers, 99 bytes of the month's 1000 bytes left",
    ),
    "never fits": (
        {"transfer_bytes_per_month": 50}, Spent(), UNKNOWN, {},
        "it goes on only when [allowance] transfer_bytes_per_month is raised",
    ),
    "over the cap already": (
        {"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=5000), UNKNOWN, {"delta": True},
        "0 bytes of the month's 1000 bytes left",
    ),
    "a delta may fit": (
        {"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=901), UNKNOWN, {"delta": True},
        "",
    ),
    "all is here": (
        {"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=5000), PHONE,
        {"missing_bytes": 0}, "",
    ),
    "writes": (
        {"write_bytes_per_day": DAY_CAP}, Spent(written=601), UNKNOWN, {},
        "this needs 300 bytes of writes, 299 bytes of the day's 900 bytes left",
    ),
    "writes fit": ({"write_bytes_per_day": DAY_CAP}, Spent(written=600), UNKNOWN, {}, ""),
    "a delta writes as much": (
        {"write_bytes_per_day": DAY_CAP}, Spent(written=601), UNKNOWN, {"delta": True},
        "this needs 300 bytes of writes",
    ),
    "metered": ({}, Spent(), PHONE, {}, "wwan0 is a modem's line"),
    "metered and asked for": ({}, Spent(), PHONE, {"asked": True}, ""),
    "asked for, but spent": (
        {"transfer_bytes_per_month": MONTH_CAP}, Spent(transferred=1000), PHONE, {"asked": True},
        "0 bytes of the month's",
    ),
    "metered and allowed": (
        {"metered_transfers": MeteredTransfers.ALLOW}, Spent(), PHONE, {}, "",
    ),
    "said to be metered": ({"metered": Metered.ALWAYS}, Spent(), UNKNOWN, {}, "is metered"),
    "said not to be": ({"metered": Metered.NEVER}, Spent(), PHONE, {}, ""),
    "unknown": ({}, Spent(), UNKNOWN, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WAITS))
def test_what_has_to_wait(case: str) -> None:
    asked, gone, metering, more, words = WAITS[case]
    given = {"missing_bytes": 100, "at_unix": NOW, **more}
    found = hold(Allowance(**asked), gone, metering, **given)
    assert (found is None) is (words == "")
    assert found is None or words in found.reason


def test_it_says_when_it_goes_on_and_looks_then() -> None:
    allowance = Allowance(transfer_bytes_per_month=100)
    gone = spent(Books().add(allowance, NOW, transferred=80, written=0), allowance, NOW)
    found = hold(allowance, gone, UNKNOWN, missing_bytes=30, at_unix=NOW)
    assert found is not None
    assert "over (2026-12-01 00:00 UTC)" in found.reason
    last_s = hold(allowance, gone, UNKNOWN, missing_bytes=30, at_unix=at("2026-11-30 23:59:50"))
    assert (found.after_s, last_s and last_s.after_s) == (30.0, 10.0)


@pytest.mark.parametrize(
    ("moment", "starts_on", "begun", "ends"),
    [
        ("2026-11-24 12:00", 1, "2026-11-01", "2026-12-01"),
        ("2026-11-24 12:00", 25, "2026-10-25", "2026-11-25"),
        ("2026-11-25 00:00", 25, "2026-11-25", "2026-12-25"),
        ("2026-01-05 00:00", 28, "2025-12-28", "2026-01-28"),
        ("2026-03-01 00:00", 28, "2026-02-28", "2026-03-28"),
        ("2026-02-28 00:00", 28, "2026-02-28", "2026-03-28"),
        ("2024-02-29 23:59", 1, "2024-02-01", "2024-03-01"),
        ("2026-12-31 23:59", 1, "2026-12-01", "2027-01-01"),
        ("1970-01-01 00:00", 1, "1970-01-01", "1970-02-01"),
    ],
)
def test_months(moment: str, starts_on: int, begun: str, ends: str) -> None:
    assert month_of(at(moment), starts_on) == (begun, at(f"{ends} 00:00"))


@pytest.mark.parametrize("starts_on", [1, 2, 15, 28])
def test_every_day_lies_in_one_month_that_begins_where_the_last_ended(starts_on: int) -> None:
    label, ends = month_of(at("2023-12-31 12:00"), starts_on)
    for day in range(800):
        now = at("2024-01-01 12:00") + day * 86400.0
        found, until = month_of(now, starts_on)
        assert now < until <= now + 31 * 86400.0
        assert found == label if now < ends else at(f"{found} 00:00") == ends
        label, ends = found, until
        assert day_of(now) == (dt.datetime.fromtimestamp(now, dt.timezone.utc).date().isoformat(),
                               now + 43200.0)  # fmt: skip


def test_moments_without_a_date_are_taken_for_the_nearest() -> None:
    assert month_of(-1e12, 1)[0] == "1970-01-01"
    assert month_of(1e18, 1)[0] < "9999"


class TestJumps:
    def test_a_month_that_turns_begins_at_nothing(self) -> None:
        counter = Counter().add("2026-11-01", 70)
        assert (counter.since("2026-11-01"), counter.since("2026-12-01")) == (70, 0)

    def test_a_clock_that_ran_ahead_gives_nothing_away(self) -> None:
        counter = Counter().add("2026-11-01", 70).add("2040-01-01", 20)
        assert counter.since("2026-11-01") == 90

    def test_what_was_of_the_future_ends_with_this_month(self) -> None:
        counter = Counter().add("2026-11-01", 70).add("2040-01-01", 20).add("2026-11-01", 1)
        turned = counter.add("2026-12-01", 5)
        assert (counter.since("2026-12-01"), turned.since("2026-12-01")) == (0, 5)
        assert "2040-01-01" not in turned.counted

    def test_a_clock_that_fell_back_and_was_set_right_keeps_the_month(self) -> None:
        counter = Counter().add("2026-12-01", 70).add("2026-11-01", 3)
        assert counter.since("2026-11-01") == 73
        assert counter.since("2026-12-01") == 70
        assert counter.add("2026-12-01", 1).since("2026-12-01") == 71

    def test_few_periods_are_kept(self) -> None:
        counter = Counter()
        for year in range(2000, 2050):
            counter = counter.add(f"{year}-01-01", 1)
        assert len(counter.counted) <= 6

    def test_a_clock_behind_the_floor_stands_still(self) -> None:
        books = Books().add(Allowance(), NOW, transferred=1, written=1)
        assert books.moment(0.0, NOW - 1e6) == NOW
        assert books.moment(0.0, NOW + 5) == NOW + 5
        assert books.moment(NOW - 10, NOW - 1e6) == NOW - 10


def test_a_transfer_is_taken_in_once() -> None:
    books, fresh = Books().settle("one", 500)
    books, more = books.settle("one", 700)
    again, none = books.settle("one", 700)
    assert (fresh, more, none) == (500, 200, 0)
    assert again.settle("two", 40)[1] == 40


@pytest.mark.parametrize(
    ("share", "factor", "kept"), [(0.0, 1, 2048), (0.79, 1, 2048), (0.8, 6, 2048), (0.95, 60, 16)]
)
def test_samples_thin_out_towards_the_cap(share: float, factor: int, kept: int) -> None:
    assert (sample_factor(share), kept_batches(share, 2048)) == (factor, kept)


def test_the_share_is_of_what_is_used_up_most() -> None:
    allowance = Allowance(transfer_bytes_per_month=100, write_bytes_per_day=10)
    assert Spent(transferred=50, written=9).share(allowance) == 0.9
    assert Spent(transferred=50, written=9).share(Allowance()) == 0.0


def test_sizes() -> None:
    assert [size(n) for n in (0, 9999, 10_000, 1_234_567, 12_345_678)] == [
        "0 bytes", "9999 bytes", "10.0 kB", "1234.6 kB", "12.3 MB",
    ]  # fmt: skip
