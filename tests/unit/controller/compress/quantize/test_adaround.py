"""Learned rounding: its error is the formula's, and its choice close to the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.compress.quantize import gptq, rows
from controller.compress.quantize.adaround import Moments, learn_rounding

Double = NDArray[np.float64]


def inputs(columns: int, count: int = 3000, own: float = 0.3) -> tuple[Double, Double]:
    """What a quantized and a float network might feed a layer: correlated, centred."""
    random = np.random.default_rng(1)
    x = random.normal(size=(count, columns // 3)) @ random.normal(size=(columns // 3, columns))
    x += own * random.normal(size=x.shape)
    quantized = x + 0.05 * random.normal(size=x.shape) * x.std()
    return quantized - quantized.mean(0), x - x.mean(0)


def of(quantized: Double, x: Double) -> Moments:
    return Moments(hessian=quantized.T @ quantized, cross=quantized.T @ x)


def test_the_error_is_that_of_the_outputs() -> None:
    quantized, x = inputs(9)
    random = np.random.default_rng(2)
    weights, rounded = random.normal(size=(3, 9)), random.normal(size=(3, 9))
    expected = ((x @ weights.T - quantized @ rounded.T) ** 2).sum(0)
    fixed = ((x @ weights.T) ** 2).sum(0)
    assert of(quantized, x).error(weights, rounded) + fixed == pytest.approx(expected)


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    quantized, x = inputs(9, own=1.0)
    moments = of(quantized, x)
    weights = np.random.default_rng(3).normal(size=(24, 9))
    scale = np.abs(weights).max(axis=1) / 3
    fixed = ((x @ weights.T) ** 2).sum(0)
    below = np.floor(weights / scale[:, None])

    def errors(levels: Double) -> Double:
        return moments.error(weights, levels * scale[:, None]) + fixed

    every = [errors(np.clip(below + ups, -3, 3)) for ups in itertools.product((0, 1), repeat=9)]
    best = np.min(every, axis=0)
    nearest = errors(np.clip(np.rint(weights / scale[:, None]), -3, 3))
    found = errors(learn_rounding(weights, moments, scale, 3))
    assert (nearest < 1.02 * best).mean() < 0.5  # there is something to win
    assert (found < 1.02 * best).mean() > 0.75


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_levels_are_neighbours_and_never_worse_than_where_they_started(bits: int) -> None:
    moments = of(*inputs(24))
    weights = np.random.default_rng(4).normal(size=(8, 24))
    limit = 2 ** (bits - 1) - 1
    scale = gptq.best_scale(weights, moments.hessian, bits)
    exact = weights / scale[:, None]
    nearest = np.clip(np.rint(exact), -limit, limit)
    compensated = gptq.round_columns(weights, moments.hessian, scale, bits)
    learned = learn_rounding(weights, moments, scale, bits)
    assert np.abs(learned - np.clip(exact, -limit, limit)).max() <= 1.0
    assert np.array_equal(learned, learn_rounding(weights, moments, scale, bits))
    further = learn_rounding(weights, moments, scale, bits, start=compensated)
    for levels, start in ((learned, nearest), (further, compensated)):
        assert np.abs(levels).max() <= limit
        assert np.array_equal(levels, np.rint(levels))
        before = moments.error(weights, start * scale[:, None])
        assert (moments.error(weights, levels * scale[:, None]) <= before).all()


def test_moments_are_of_centred_rows_in_any_batches() -> None:
    quantized, x = inputs(6, count=50)
    quantized, x = quantized + 2.0, x + 3.0
    ((found, mean, aim),) = rows.moments([[quantized[:20]], [quantized[20:]]], [[x[:20]], [x[20:]]])
    assert mean == pytest.approx(quantized.mean(0))
    assert aim == pytest.approx(x.mean(0))
    assert found.hessian == pytest.approx(50 * np.cov(quantized.T, bias=True))
    centred = (quantized - quantized.mean(0)).T @ (x - x.mean(0))
    assert found.cross == pytest.approx(centred)


def test_rows_that_never_vary_are_rounded_to_the_nearest() -> None:
    weights = np.array([[0.4, -0.6, 1.2]])
    nothing = Moments(hessian=np.zeros((3, 3)), cross=np.zeros((3, 3)))
    assert np.array_equal(learn_rounding(weights, nothing, np.ones(1), 4), [[0.0, -1.0, 1.0]])
