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


@pytest.mark.parametrize("exponent", [0.4, 0.7, 1.6, 3.0])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.5, 0.2)])
def test_a_tone_is_found_where_it_is_asked_for(exponent: float, gain: float, offset: float) -> None:
    local = shift.histogram(gain * SKEWED**exponent + offset)
    found = shift.compare(REFERENCE, local, toned=True)
    assert found.exponent == pytest.approx(exponent, rel=0.1)
    assert found.gain == pytest.approx(gain, rel=0.1)
    assert found.offset == pytest.approx(offset, abs=0.02)
    assert found.unexplained < shift.TONED_MAX
    assert shift.compare(REFERENCE, local).exponent == 1.0


def test_a_line_that_is_good_needs_no_tone() -> None:
    found = shift.compare(REFERENCE, shift.histogram(0.3 * SKEWED + 0.6), toned=True)
    assert found.exponent == 1.0


def test_other_contents_do_not_move_black() -> None:
    """Half of the values at black hold the line there, whatever the others show."""
    usual = np.concatenate([np.zeros(5000), RNG.beta(2, 2, 5000)])
    others = np.concatenate([np.zeros(6500), RNG.beta(4, 2, 3500)])
    reference = shift.histogram(usual)
    found = shift.compare(reference, shift.histogram(0.2 * others + 0.5))
    assert found.offset == pytest.approx(0.5, abs=0.005)
    assert found.gain == pytest.approx(0.2, rel=0.3)


def test_a_refit_for_a_known_tone_is_the_fit() -> None:
    local = shift.histogram(0.5 * SKEWED**2 + 0.2)
    gain, offset = shift.refit(REFERENCE, local, 2.0)
    assert (gain, offset) == (pytest.approx(0.5, rel=0.05), pytest.approx(0.2, abs=0.01))


def test_ends_are_shares_of_the_outermost_values() -> None:
    values = np.concatenate([np.zeros(30), np.linspace(0.1, 0.9, 60), np.ones(10)])
    assert shift.ends(shift.histogram(values)) == (pytest.approx(0.3), pytest.approx(0.1))
    seen = shift.ends(shift.histogram(np.linspace(0, 1, 100_000) ** 2))
    assert seen == pytest.approx(
        shift.ends(shift.histogram(np.linspace(0, 1, 100_000)), 2.0), abs=0.002
    )


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
