"""Drift and the affine explanation, on distributions with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers import shift
from fitment.core.histogram import Histogram

RNG = np.random.default_rng(0)
SKEWED = RNG.beta(0.6, 3.0, 50_000)
REFERENCE = shift.histogram(SKEWED)


@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0.0), (4.0, 0.0), (1.0, 0.2), (0.5, -0.4)])
def test_an_affine_change_is_found_and_explained(gain: float, offset: float) -> None:
    found = shift.compare(REFERENCE, shift.histogram(gain * SKEWED + offset))
    assert found.gain == pytest.approx(gain, rel=0.01)
    assert found.offset == pytest.approx(offset, abs=0.01)
    assert found.unexplained < 0.03
    assert not found.inverted


def test_the_drift_of_an_offset_is_the_offset_over_the_range() -> None:
    found = shift.compare(REFERENCE, shift.histogram(SKEWED + 0.1))
    assert found.drift == pytest.approx(0.1 / (REFERENCE.high - REFERENCE.low), rel=0.01)


def test_equal_histograms_do_not_drift() -> None:
    found = shift.compare(REFERENCE, REFERENCE)
    assert (found.drift, found.gain) == (0.0, pytest.approx(1.0))


def test_drift_is_at_most_one() -> None:
    assert shift.compare(REFERENCE, shift.histogram(100 * SKEWED)).drift == 1.0


def test_inversion_is_not_explained_and_recognised() -> None:
    found = shift.compare(REFERENCE, shift.histogram(1.0 - SKEWED))
    assert found.unexplained > shift.UNEXPLAINED_MAX
    assert found.inverted


def test_hitting_the_level_alone_explains_nothing() -> None:
    """A constant 0.9 with a little noise: a constant fit leaves all of the local shape."""
    noise = RNG.choice([0.0, 0.001], SKEWED.shape)
    found = shift.compare(REFERENCE, shift.histogram(0.9 + noise))
    assert found.unexplained > shift.UNEXPLAINED_MAX


def test_constant_samples_make_a_histogram() -> None:
    for value in (0.0, 5.0, -3.0):
        made = shift.histogram(np.full(10, value))
        assert made.total == 10
        assert made.low <= value <= made.high


def test_quantiles_agree_with_the_shared_type() -> None:
    made = Histogram(low=0.0, high=4.0, counts=(2, 0, 1, 1))
    levels = np.array([0.1, 0.25, 0.5, 0.6, 0.9, 1.0])
    assert shift.quantiles(made, levels) == pytest.approx([made.quantile(u) for u in levels])


def test_deviation_of_a_histogram() -> None:
    assert shift.deviation(REFERENCE) == pytest.approx(SKEWED.std(), rel=0.01)
