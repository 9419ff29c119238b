"""Percentiles, intervals and steadiness, against published and exact numbers."""

from __future__ import annotations

import random

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
