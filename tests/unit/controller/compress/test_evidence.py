"""Evidence: intervals, agreement and noise are the textbook's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from controller.compress import evidence, golden, statistics
from controller.errors import FitError


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (9371, 10_000, 0.93217, 0.94169),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (81, 263, 0.25525, 0.36623),  # Newcombe 1998, method 3
    ],
)
def test_wilson(right: int, count: int, low: float, high: float) -> None:
    assert statistics.wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_share_is_wilsons() -> None:
    outputs = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    labels = np.array([0, 1, 2, 3, 1, 1])
    found = evidence.interval(
        lambda o, a: (o.argmax(1) == a).mean(), outputs, labels, 5 / 6, seed=0
    )
    assert found == statistics.wilson(5, 6)


def test_any_other_metric_gets_a_seeded_bootstrap() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=(200, 1)).astype(np.float32)

    def metric(found: np.ndarray, _: np.ndarray) -> float:
        return float(found.mean())

    low, high = evidence.interval(metric, outputs, np.zeros(200), 0.0, seed=3)
    assert (low, high) == evidence.interval(metric, outputs, np.zeros(200), 0.0, seed=3)
    assert low < outputs.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.3)


def test_agreement_of_classes_and_of_values() -> None:
    one = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    other = np.array([[9, 0], [0, 9], [0, 1], [0, 1]], np.float32)
    assert evidence.agreement(one, other) == 0.75
    line = np.linspace(0, 1, 5, dtype=np.float32)[:, None]
    shifted = line + np.array([[0.04], [0.06], [0], [0], [0]], np.float32)
    assert evidence.agreement(line, shifted) == 0.8


def test_noise() -> None:
    reference = np.full((4, 2), 2.0, np.float32)
    assert evidence.sqnr_db(reference, reference + np.float32(0.2)) == pytest.approx(20.0, abs=1e-3)
    assert evidence.sqnr_db(reference, reference) is None


def test_goldens_leave_out_what_cannot_be_told() -> None:
    outputs = np.array([[10, 0], [5, 4.99], [0, 10]] * 10, np.float32)
    stored = np.arange(30, dtype=np.uint8)[:, None]
    found = golden.choose(stored, outputs, outputs, scheme="u8s8")
    assert len(found.inputs) == golden.MOST
    assert not set(found.inputs[:, 0]) & set(range(1, 30, 3))
    assert found.tolerance == pytest.approx(0.3)


def test_goldens_are_of_all_answers_and_no_more_than_bytes_allow() -> None:
    answers = np.array([0] * 100 + [1] * 3 + [2])
    outputs = np.eye(3, dtype=np.float32)[answers]
    stored = np.arange(104, dtype=np.uint8)[:, None]
    found = golden.choose(stored, outputs, outputs, scheme="u8s8")
    assert list(found.inputs[:7, 0]) == [0, 100, 103, 1, 101, 2, 102]
    large = np.repeat(stored, 820, axis=1)  # nine of them are within `ENOUGH_BYTES`
    assert len(golden.choose(large, outputs, outputs, scheme="u8s8").inputs) == 9
    huge = np.repeat(stored, 10_000, axis=1)
    assert len(golden.choose(huge, outputs, outputs, scheme="u8s8").inputs) == golden.FEWEST


@pytest.mark.parametrize(("others", "shipped"), [(4, 0), (10, 1), (50, 8)])
def test_goldens_disagree_with_fp32_no_more_than_the_variant(others: int, shipped: int) -> None:
    outputs = np.eye(2, dtype=np.float32)[np.zeros(100, int)]
    reference = outputs.copy()
    reference[:others] = [0, 1]
    stored = np.arange(100, dtype=np.uint8)[:, None]
    found = golden.choose(stored, outputs, reference, scheme="u8s8")
    assert len(found.inputs) == golden.MOST
    assert (found.reference.argmax(axis=1) != 0).sum() == shipped


def test_a_variant_that_is_never_sure_is_refused() -> None:
    with pytest.raises(FitError, match="only 0 of 30"):
        golden.choose(np.zeros((30, 1)), np.ones((30, 2)), np.ones((30, 2)), scheme="fp32")


@pytest.mark.parametrize(
    ("right", "count", "said"),
    [(1919, 2048, False), (1944, 2048, False), (1970, 2048, True), (192, 200, False)],
    ids=["alike", "chance", "remembered", "too few to tell"],
)
def test_a_guard_set_that_was_trained_on_is_noticed(right: int, count: int, *, said: bool) -> None:
    note = evidence.flattered(
        right / count, evidence.wilson(right, count), 0.9371, evidence.wilson(9371, 10_000)
    )
    assert bool(note) is said
    assert not said or "96.19 % of the guard inputs" in note


@pytest.mark.parametrize(
    ("count", "allowed", "said"),
    [(2000, 0.005, "38416 guard inputs"), (2000, 0.03, ""), (100, None, ""), (64, 0.01, "12.2")],
)
def test_a_budget_finer_than_the_guard_set_tells_is_noticed(
    count: int, allowed: float | None, said: str
) -> None:
    note = evidence.coarse(count, allowed)
    assert said in note
    assert bool(said) is bool(note)
