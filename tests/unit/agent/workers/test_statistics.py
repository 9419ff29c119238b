"""Percentiles, intervals and steadiness, against published and exact numbers."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest

from agent.workers import statistics


@pytest.mark.parametrize(("share", "needed"), [(0.50, 11), (0.90, 64), (0.95, 130), (0.99, 662)])
def test_a_percentile_needs_its_number_of_runs(share: float, needed: int) -> None:
    """The numbers of MLPerf LoadGen's early stopping with one over-latency run allowed."""
    assert statistics.percentile(range(needed - 1), share) is None
    assert statistics.percentile(range(needed), share) == needed - 1


def test_more_runs_allow_more_slow_ones_to_be_dropped() -> None:
    assert statistics.percentile(range(81), 0.90) == 79


def test_the_percentile_is_an_upper_bound_of_the_true_one() -> None:
    rng = random.Random(1)
    draws = (sorted(rng.randrange(10**6) for _ in range(300)) for _ in range(300))
    below = sum((statistics.percentile(draw, 0.9) or 0) < 0.9 * 10**6 for draw in draws)
    assert below <= 9  # 1 % of 300, with room for chance


@pytest.mark.parametrize(
    ("count", "ranks"), [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (10, (2, 9)), (100, (40, 61))]
)
def test_the_median_interval_has_the_textbook_ranks(count: int, ranks: tuple[int, int]) -> None:
    assert statistics.median_interval(range(1, count + 1)) == ranks


def test_the_large_sample_interval_continues_the_exact_one() -> None:
    exact = statistics.median_interval(range(1000))
    approximate = statistics.median_interval(range(1001))
    assert abs(exact[0] - approximate[0]) <= 1


def test_many_runs_do_not_underflow() -> None:
    assert statistics.percentile(range(100_000), 0.99) == pytest.approx(99_000, rel=0.002)


def test_a_summary_says_what_it_cannot_know() -> None:
    latency = statistics.summarise([3_000_000, 1_000_000, 2_000_000])
    assert (latency.count, latency.min_ms, latency.p50_ms, latency.mean_ms) == (3, 1.0, 2.0, 2.0)
    assert (latency.p90_ms, latency.p95_ms, latency.p99_ms) == (None, None, None)
    assert (latency.p50_low_ms, latency.p50_high_ms) == (1.0, 3.0)


def test_windows_agree() -> None:
    steady, falling = [100] * 20, [200] * 10 + [100] * 10
    assert statistics.windows_agree(steady, window=10, within=0.02)
    assert not statistics.windows_agree(falling, window=10, within=0.02)
    assert not statistics.windows_agree(steady[:19], window=10, within=0.02)


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert statistics.drift([100] * 10 + [50] * 10 + [120] * 10) == pytest.approx(0.2)
    assert statistics.drift([100, 200]) == 0.0


@pytest.mark.parametrize(
    ("count", "share", "ranks"), [(100, 0.9, (84, 96)), (500, 0.95, (465, 485))]
)
def test_an_interval_of_a_percentile_has_the_fewest_ranks_that_cover_it(
    count: int, share: float, ranks: tuple[int, int]
) -> None:
    """Ranks by exact sums: 2.5 % at most on each side, and one rank less would be too few."""
    low, high = ranks
    assert statistics.interval(range(1, count + 1), share) == ranks

    def at_most(above: int) -> Fraction:  # exactly so many runs above, or fewer
        slow = Fraction(1) - Fraction(str(share))
        return sum(
            (comb(count, k) * slow**k * (1 - slow) ** (count - k) for k in range(above + 1)),
            Fraction(0),
        )

    tail = Fraction("0.025")
    assert at_most(count - high) <= tail < at_most(count - high + 1)
    assert 1 - at_most(count - low) <= tail < 1 - at_most(count - low - 1)


def test_intervals_are_told_with_their_percentiles_and_null_with_them() -> None:
    few, some = (statistics.summarise(range(1_000_000, 1_000_000 + n)) for n in (64, 200))
    assert few.p90_ms is not None
    assert few.p90_low_ms is not None
    assert (few.p95_ms, few.p95_low_ms, few.p95_high_ms) == (None, None, None)
    assert statistics.not_told(few) == ("p95, p99 not given: 64 runs are too few",)
    assert some.p95_low_ms is not None
    assert some.p95_high_ms is not None
    assert some.p95_ms is not None
    assert some.p50_ms < some.p95_low_ms < some.p95_high_ms <= some.p95_ms
    assert some.p99_low_ms is None
