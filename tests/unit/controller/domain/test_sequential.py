"""Bets and intervals: exact where they can be, by seeded chance where they cannot."""

from __future__ import annotations

import itertools
import random

import pytest

from controller.domain import sequential


@pytest.mark.parametrize("allowed", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
def test_the_bet_cannot_be_expected_to_grow_while_the_claim_holds(
    allowed: float, truth: float
) -> None:
    """The step of Ville's inequality, exactly: for every count, and every mean that is allowed."""
    mean = truth * allowed
    for seen, total in itertools.product(range(25), repeat=2):
        if total <= seen:
            now = sequential.e_value(seen, total, allowed)
            good = sequential.e_value(seen + 1, total, allowed)
            bad = sequential.e_value(seen + 1, total + 1, allowed)
            if bad < sequential.MOST:
                assert mean * bad + (1 - mean) * good <= now * (1 + 1e-9)


def test_half_a_failure_is_a_weaker_bet_than_the_chance_of_one() -> None:
    """Means of clusters lie between 0 and 1: they are never bet on more than their mean allows."""
    whole = (sequential.e_value(1, 1, 0.2) + sequential.e_value(1, 0, 0.2)) / 2
    assert sequential.e_value(1, 0.5, 0.2) <= whole


def test_looking_after_every_device_does_not_raise_the_rate_of_false_alarms() -> None:
    chance, alarms = random.Random(3), 0
    for _ in range(500):
        observed = [float(chance.random() < 0.05) for _ in range(300)]
        alarms += sequential.highest(observed, 0.05)[0] >= 20
    assert alarms / 500 <= 0.05


def test_the_highest_bet_is_that_of_some_prefix() -> None:
    chance = random.Random(4)
    observed = [float(chance.random() < 0.2) for _ in range(60)]
    every = [
        sequential.e_value(n, sum(observed[:n]), 0.1) for n in range(len(observed) + 1)
    ]  # fmt: skip
    assert sequential.highest(observed, 0.1)[0] == pytest.approx(max(every))


def test_nothing_allowed_means_that_one_failure_settles_it() -> None:
    assert sequential.e_value(1000, 0, 0.0) == 1.0
    assert sequential.e_value(1000, 1, 0.0) == sequential.MOST
    assert sequential.e_value(5, 5, 1.0) == 1.0  # everything is allowed


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_bounds_hold_at_all_looks_together(share: float) -> None:
    chance, missed = random.Random(5), 0
    for _ in range(150):
        total = 0
        for seen in range(1, 61):
            total += chance.random() < share
            low, high = sequential.share_bounds(seen, total, 0.1)
            assert low <= total / seen <= high
            if not low <= share <= high:
                missed += 1
                break
    assert missed / 150 <= 0.1


def test_bounds_of_a_median() -> None:
    assert sequential.quantile_bounds((), 0.5, 0.05) == (None, None)
    assert sequential.quantile_bounds([1.0, 1.1], 0.5, 0.05) == (None, None)
    low, high = sequential.quantile_bounds([i / 100 for i in range(101)], 0.5, 0.05)
    assert low is not None
    assert high is not None
    assert 0.3 < low < 0.5 < high < 0.7


@pytest.mark.parametrize(("allowed", "true"), [(0.02, 0.12), (0.02, 0.4), (0.5, 0.9)])
def test_when_a_bad_variant_has_been_seen_through(allowed: float, true: float) -> None:
    after = sequential.stops_after(allowed, true, 80)
    assert after is not None
    chance, late = random.Random(6), 0
    for _ in range(300):
        observed = [float(chance.random() < true) for _ in range(after)]
        late += sequential.highest(observed, allowed)[0] < 80
    assert late / 300 <= 0.08  # 5 %, and three standard errors
    assert sequential.stops_after(allowed, allowed, 80) is None
