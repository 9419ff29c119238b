"""Whether undoing a shift is worth it: samples unlike the reference's, or a model that is surer."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers import shift, worth
from controller.compress import calibration
from tests.integration import worker_models as models

USUAL = models.pictures(256, seed=11)
REFERENCE = shift.histogram(USUAL)
SPREAD = calibration.spread(USUAL)
LOCAL = models.pictures(128, seed=12)
_RANDOM = np.random.default_rng(5)


def test_device_and_fit_look_at_inputs_alike() -> None:
    low, high = np.quantile(worth.looks(USUAL), (0.02, 0.98), axis=0)
    assert pytest.approx(low) == SPREAD.low
    assert pytest.approx(high) == SPREAD.high


def test_samples_of_the_usual_sensor_are_inside_and_those_of_a_dark_one_are_not() -> None:
    assert worth.outside(SPREAD, REFERENCE, LOCAL) < 0.5
    assert worth.outside(SPREAD, REFERENCE, 0.1 * LOCAL) > 0.95
    assert not worth.foreign(SPREAD, REFERENCE, LOCAL)
    assert worth.foreign(SPREAD, REFERENCE, LOCAL + 2.0)
    assert not worth.foreign(None, REFERENCE, LOCAL + 2.0)  # a bundle of old: nothing is known


def _logits(margin: float, *, spread: float = 0.5, count: int = 200) -> np.ndarray:
    made = _RANDOM.normal(0.0, spread, (count, 4))
    made[:, 0] += margin
    return made.astype(np.float32)


def test_certainty_is_read_of_logits_and_of_probabilities() -> None:
    logits = _logits(2.0)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert worth.certainty(shares) == pytest.approx(worth.certainty(logits), abs=1e-5)
    assert worth.certainty(logits[:, :1]) is None
    assert worth.certainty(logits[:, None]) is None


def test_certainty_goes_from_none_to_all() -> None:
    certain = worth.certainty(np.array([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]], dtype=np.float32))
    assert certain == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_rise_of_certainty_is_worth_it() -> None:
    assert worth.reason(_logits(1.0), _logits(2.0), strange=False) == ""


@pytest.mark.parametrize("margin", [2.0, 1.0], ids=["as sure", "less sure"])
def test_what_makes_the_model_no_surer_is_not(margin: float) -> None:
    same = _logits(2.0)
    after = same - np.array([[2.0 - margin, 0.0, 0.0, 0.0]], dtype=np.float32)
    assert "nothing shows that the model would be righter" in worth.reason(
        same, after, strange=False
    )


def test_less_evidence_does_where_inputs_are_foreign() -> None:
    before = np.array([[0.8, 0.2]] * 16)
    after = np.array([[0.85, 0.15], [0.77, 0.23]] * 8)  # a mean rise of 1.3 standard errors
    assert "2 standard errors" in worth.reason(before, after, strange=False)
    assert worth.reason(before, after, strange=True) == ""


def test_a_rise_too_small_to_matter_is_not_enough() -> None:
    before = _logits(1.0)
    after = before.copy()
    after[:, 0] += 0.002
    assert "0.25%" in worth.reason(before, after, strange=True)


def test_outputs_that_tell_no_certainty_are_refused() -> None:
    one = _logits(2.0)[:, :1]
    assert "tell no certainty" in worth.reason(one, one, strange=False)


@pytest.mark.parametrize(("changed", "count", "enough"), [(30, 200, True), (22, 200, False),
                                                          (3, 16, False)])  # fmt: skip
def test_foreign_inputs_that_are_answered_otherwise_need_no_certainty(
    changed: int, count: int, enough: bool
) -> None:
    before = np.tile(np.array([[3.0, -1.0, 0.0]]), (count, 1))
    after = before / 2  # less sure of the same
    after[:changed] = after[:changed, ::-1]
    assert (worth.reason(before, after, strange=True) == "") == enough
    assert worth.reason(before, after, strange=False)


@pytest.mark.parametrize("off", [0.05, 0.5], ids=["rounded", "no probabilities"])
def test_both_outputs_are_read_alike(off: float) -> None:
    """One row that adds up to something else must not make the others look unsure."""
    before = np.tile(np.array([[0.9, 0.1]]), (64, 1))
    before[0, 0] += off
    after = np.tile(np.array([[0.8, 0.2]]), (64, 1))
    assert "nothing shows" in worth.reason(before, after, strange=False)
    assert "nothing shows" in worth.reason(before, after, strange=True)


def test_certainty_is_read_of_probabilities_in_eight_bits() -> None:
    logits = 3.0 * np.random.default_rng(3).normal(size=(200, 100))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = worth.certainty(np.rint(shares * 256) / 256)
    assert found is not None
    assert np.abs(found - worth.certainty(shares)).max() < 0.1
