"""Scales, zero points and integer weights.

``real = scale * (q - zero_point)``; zero is always exactly representable. Scales are float32, as
the runtimes hold them, and everything derived is computed from the rounded value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.compress.quantize.observers import Range

_BIAS_LIMIT = 2.0**30  # of an int32 bias, with room for the accumulator's own sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """Quantization of one activation tensor."""

    scale: np.float32
    zero_point: NDArray[Any]  # 0-d, of the tensor's type


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Integer weights; ``scale`` and ``zero_point`` are 0-d, or one an output channel."""

    values: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a target's arithmetic asks of scales and zero points.

    ``centred``: activations have their zero point in the middle of the type (0, or 128 of uint8),
    and the scale covers the larger side. ``power_of_two``: every scale is ``2^⌈log2 s⌉``, so that
    shifts can do the rescaling; rounding up never clips what the range covers (TQT, Jain et al.,
    2020, arXiv:1903.08066).
    """

    per_channel: bool = True  # of symmetric weights
    centred: bool = False
    power_of_two: bool = False

    def scale(self, wanted: Any) -> Any:
        """``wanted`` positive scales (any shape), as the rule has them; float32."""
        exact = np.asarray(wanted, np.float64)
        if self.power_of_two:
            exact = 2.0 ** np.ceil(np.log2(exact))
        return exact.astype(np.float32)


def affine(found: Range, dtype: np.dtype[Any], rules: Rules | None = None) -> Affine:
    """Quantization of a range, widened so that it holds zero; asymmetric unless ``rules`` say."""
    rules = rules or Rules()
    limits = np.iinfo(dtype)
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    middle = (int(limits.max) + int(limits.min) + 1) // 2
    if rules.centred:
        span = max(high, -low) / (int(limits.max) - middle)
    else:
        span = (high - low) / (int(limits.max) - int(limits.min))
    if not span > np.finfo(np.float32).tiny:
        empty = middle if rules.centred else limits.min
        return Affine(scale=np.float32(1.0), zero_point=np.array(empty, dtype))
    scale = np.float32(rules.scale(span))
    exact = middle if rules.centred else np.rint(limits.min - low / float(scale))
    zero_point = np.clip(exact, limits.min, limits.max)
    return Affine(scale=scale, zero_point=np.array(zero_point, dtype))


def symmetric(
    weights: NDArray[np.float32],
    *,
    axis: int | None,
    bias: NDArray[np.float32],
    input_scale: np.float32,
    rules: Rules | None = None,
) -> Weights:
    """Int8 weights in -127…127, ``scale = max|w| / 127`` of a channel or of all.

    A channel whose bias would not fit 32 bits in units of ``input_scale * scale`` gets a wider
    scale: channels that pruning emptied have a bias and no weights.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others if axis is not None else None)
    need = np.abs(bias) / (_BIAS_LIMIT * float(input_scale))
    if axis is None:
        need = need.max(initial=0.0)
    scale = np.maximum(largest / 127.0, need).astype(np.float32)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1.0)).astype(np.float32)
    scale = np.asarray((rules or Rules()).scale(scale))
    values = np.clip(np.rint(weights / spread(scale, weights.ndim, axis)), -127, 127)
    return Weights(
        values=values.astype(np.int8),
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int8),
        axis=axis,
    )


def asymmetric(weights: NDArray[np.float32], rules: Rules | None = None) -> Weights:
    """Uint8 weights with one scale and zero point for all."""
    found = Range(low=float(weights.min()), high=float(weights.max()))
    chosen = affine(found, np.dtype(np.uint8), rules)
    values = np.clip(np.rint(weights / chosen.scale) + float(chosen.zero_point), 0, 255)
    return Weights(
        values=values.astype(np.uint8),
        scale=np.asarray(chosen.scale),
        zero_point=chosen.zero_point,
        axis=None,
    )


def spread(scale: NDArray[np.float32], rank: int, axis: int | None) -> NDArray[np.float32]:
    """``scale`` shaped so that it divides a tensor of ``rank`` along ``axis``."""
    if axis is None:
        return scale
    return scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def integer_bias(
    bias: NDArray[np.float32], weights: Weights, input_scale: np.float32
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Bias in units of ``input_scale * weight scale``, which integer kernels accumulate in."""
    scale = (input_scale * weights.scale).astype(np.float32)
    limits = np.iinfo(np.int32)
    values = np.clip(np.rint(bias.astype(np.float64) / scale), limits.min, limits.max)
    return values.astype(np.int32), scale
