from __future__ import annotations

import numpy as np
import pytest

from controller.compress.quantize import numbers
from controller.compress.quantize.observers import Range


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-2.0, -1.0), (0.5, 1.0), (-1e-3, 1e3)]
)
def test_zero_is_exact_and_the_range_is_covered(low: float, high: float, dtype: type) -> None:
    chosen = numbers.affine(Range(low=low, high=high), np.dtype(dtype))
    limits = np.iinfo(dtype)
    assert limits.min <= int(chosen.zero_point) <= limits.max
    least = float(chosen.scale) * (limits.min - int(chosen.zero_point))
    largest = float(chosen.scale) * (limits.max - int(chosen.zero_point))
    assert least <= min(low, 0.0) + float(chosen.scale) / 2 + 1e-6
    assert largest >= max(high, 0.0) - float(chosen.scale) / 2 - 1e-6


def test_a_relu_range_starts_at_the_least_integer() -> None:
    """Then clipping does the ReLU, and runtimes drop it."""
    found = numbers.affine(Range(low=0.0, high=3.0), np.dtype(np.int8))
    assert int(found.zero_point) == -128


def test_nothing_seen_gives_a_scale_of_one() -> None:
    assert numbers.affine(Range(low=0.0, high=0.0), np.dtype(np.uint8)).scale == 1.0


def test_symmetric_weights_have_a_scale_for_each_channel() -> None:
    weights = np.array([[[[0.5]], [[-1.0]]], [[[0.015]], [[0.02]]]], np.float32)
    found = numbers.symmetric(
        weights, axis=0, bias=np.zeros(2, np.float32), input_scale=np.float32(1)
    )
    assert found.scale == pytest.approx([1 / 127, 0.02 / 127])
    assert found.values.reshape(2, 2).tolist() == [[64, -127], [95, 127]]
    assert not found.zero_point.any()


def test_an_emptied_channel_keeps_its_bias() -> None:
    """Weights that pruning zeroed would leave the bias no room in 32 bits."""
    weights = np.zeros((2, 4), np.float32)
    weights[0] = 1e-12
    bias = np.float32([5.0, -3.0])
    scale = np.float32(1e-3)
    found = numbers.symmetric(weights, axis=0, bias=bias, input_scale=scale)
    integers, bias_scale = numbers.integer_bias(bias, found, scale)
    assert integers * bias_scale == pytest.approx(bias, rel=1e-6)


def test_unsigned_weights_are_near() -> None:
    weights = np.random.default_rng(0).normal(0.2, 1, (4, 3, 3, 3)).astype(np.float32)
    found = numbers.asymmetric(weights)
    real = (found.values.astype(np.float32) - float(found.zero_point)) * found.scale
    assert np.abs(real - weights).max() <= float(found.scale) / 2 + 1e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_centred_activations_by_hand(dtype: type) -> None:
    rules = numbers.Rules(centred=True)
    found = numbers.affine(Range(low=-1.0, high=2.0), np.dtype(dtype), rules)
    limits = np.iinfo(dtype)
    assert int(found.zero_point) == {np.uint8: 128, np.int8: 0, np.int16: 0}[dtype]
    assert found.scale == pytest.approx(2.0 / (int(limits.max) - int(found.zero_point)))
    assert numbers.affine(Range(low=0, high=0), np.dtype(dtype), rules).zero_point == (
        found.zero_point
    )


@pytest.mark.parametrize(
    ("wanted", "given"), [(0.25, 0.25), (0.26, 0.5), (0.9, 1.0), (3.0, 4.0), (2.0**-20, 2.0**-20)]
)
def test_powers_of_two_are_rounded_up(wanted: float, given: float) -> None:
    assert numbers.Rules(power_of_two=True).scale(wanted) == given
    assert numbers.Rules().scale(wanted) == np.float32(wanted)


def test_weights_and_activations_have_scales_that_shift() -> None:
    rules = numbers.Rules(power_of_two=True)
    # 6 / 255 = 0.0235 needs 2^-5 = 0.03125; 1 / 127 = 0.00787 needs 2^-6.
    assert numbers.affine(Range(low=0.0, high=6.0), np.dtype(np.uint8), rules).scale == 2.0**-5
    weights = np.array([[1.0, -0.5], [0.1, 0.2]], np.float32)
    made = numbers.symmetric(
        weights, axis=0, bias=np.zeros(2, np.float32), input_scale=np.float32(1), rules=rules
    )
    assert made.scale.tolist() == [2.0**-6, 2.0**-9]
    assert made.values.tolist() == [[64, -32], [51, 102]]
