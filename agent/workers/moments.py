"""Moment matching at the first layer, folded into a quantized file's scales and biases.

For each output channel of ``y = W x + b``, with moments over the reference inputs (shipped) and
over the local samples (measured by the fp32 probe graph):

    g = sd_ref / sd_local        h = mean_ref - g * mean_local        y' = g y + h

Folded: weight scale ``s_w' = g s_w`` (the weights' bytes stay), bias ``b' = g b + h``. The input's
scale and zero point are derived anew from the local range, and the int32 bias is stored in units
of ``s_x' s_w'``, which is what the integer kernel accumulates in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.workers.runtimes.base import Array, Session
from fitment.core.patch import Place, StemPatch, Write

SHRINK_SAMPLES = 2.0
"""``n0`` of ``n / (n + n0)``: how strongly few samples are drawn toward no correction."""

_SILENT = 1e-6  # of the liveliest channel's deviation: below it a channel carries nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and variance per output channel."""

    mean: Array
    variance: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """``y' = g y + h`` per output channel; ``clamped`` counts those that hit the bound."""

    gain: Array
    shift: Array
    clamped: int


def measure(probe: Session, samples: Array) -> Moments:
    """Per-channel moments of the probe's first output ``[N, C, …]`` over all samples."""
    total: Array | float = 0.0
    squares: Array | float = 0.0
    count = 0
    for index in range(len(samples)):
        values = probe.run([samples[index : index + 1]])[0].astype(np.float64)
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        total = total + values.sum(axis=axes)
        squares = squares + (values**2).sum(axis=axes)
        count += values.size // values.shape[1]
    mean = np.asarray(total) / count
    return Moments(mean=mean, variance=np.maximum(np.asarray(squares) / count - mean**2, 0.0))


def correct(
    reference: Moments, local: Moments, *, samples: int, max_gain: float, shared: bool
) -> Correction:
    """The correction, shrunk toward none by the number of samples and bounded.

    Shrinking draws the *target* moments toward the local ones (deviations in logarithms), so that
    gain and shift stay consistent. ``shared``: one weight scale for all channels, so one gain.
    """
    weight = samples / (samples + SHRINK_SAMPLES)
    wanted, found = np.sqrt(reference.variance), np.sqrt(local.variance)
    alive = (wanted > _SILENT * wanted.max()) & (found > _SILENT * found.max())
    ratio = np.divide(wanted, found, out=np.ones_like(wanted), where=alive)
    if shared and alive.any():
        ratio = np.full_like(ratio, np.exp(np.mean(np.log(ratio[alive]))))
    gain = ratio**weight
    bounded = np.clip(gain, 1.0 / max_gain, max_gain)
    target = (1.0 - weight) * local.mean + weight * reference.mean
    return Correction(
        gain=bounded,
        shift=target - bounded * local.mean,
        clamped=int(np.count_nonzero(bounded != gain)),
    )


def identity(channels: int) -> Correction:
    """No correction: only the input's range is derived anew."""
    return Correction(gain=np.ones(channels), shift=np.zeros(channels), clamped=0)


def input_quantization(low: float, high: float, dtype: str) -> tuple[np.float32, int]:
    """Scale and zero point that cover ``low`` to ``high`` and represent 0 exactly."""
    limits = np.iinfo(np.dtype(dtype))
    low, high = min(low, 0.0), max(high, 0.0)
    smallest = float(np.finfo(np.float32).tiny)
    scale = np.float32(max((high - low) / (limits.max - limits.min), smallest))
    zero_point = round(limits.min - low / float(scale))
    return scale, int(np.clip(zero_point, limits.min, limits.max))


def fold(
    artifact: bytes, stem: StemPatch, correction: Correction, *, low: float, high: float
) -> tuple[Write, ...]:
    """The writes that put a correction and a new input range into the file.

    Raises:
        ValueError: a bias does not fit its integer type any more.
    """
    old_bias = read(artifact, stem.bias) * read(artifact, stem.bias_scale)
    input_scale, zero_point = input_quantization(low, high, stem.input_zero_point.dtype)
    gains = correction.gain[: stem.weight_scale.count]
    weight_scale = (read(artifact, stem.weight_scale) * gains).astype(np.float32)
    bias_scale = (input_scale * weight_scale).astype(np.float32)
    bias = np.rint((correction.gain * old_bias + correction.shift) / bias_scale)
    limits = np.iinfo(np.dtype(stem.bias.dtype))
    if np.any(bias < limits.min) or np.any(bias > limits.max):
        raise ValueError(f"a corrected bias does not fit {stem.bias.dtype}")
    return (
        write(stem.input_scale, [float(input_scale)]),
        write(stem.input_zero_point, [zero_point]),
        write(stem.weight_scale, weight_scale),
        write(stem.bias_scale, bias_scale),
        write(stem.bias, bias),
    )


def read(artifact: bytes, place: Place) -> Array:
    """The numbers at a place, as float64."""
    dtype = np.dtype(place.dtype).newbyteorder("<")
    values = np.frombuffer(artifact, dtype=dtype, count=place.count, offset=place.offset)
    return values.astype(np.float64)


def write(place: Place, values: Sequence[float] | Array) -> Write:
    """Numbers for a place; one value fills all of it.

    Raises:
        ValueError: their number is neither 1 nor the place's.
    """
    dtype = np.dtype(place.dtype).newbyteorder("<")
    filled = np.broadcast_to(np.asarray(values), (place.count,)).astype(dtype)
    return Write(offset=place.offset, data=filled.tobytes())
