"""Has the input shifted, and does an affine change of the sensor explain how?

Both questions are asked of histograms alone: no label, no model, and nothing of the correction
that the answer may allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.workers.runtimes.base import Array
from fitment.core.histogram import BINS, Histogram

UNEXPLAINED_MAX = 0.35
"""Largest share that the affine model may leave. On 64 photographs of clothes a gain or offset
leaves 0.04 to 0.19 (the rest is the luck of the draw); inverted, clipped, noisy or gamma-distorted
ones leave 0.75 and more."""

_LEVELS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """``local = gain * reference + offset``, and what it leaves."""

    drift: float  # normalized 1-Wasserstein distance, 0..1
    gain: float
    offset: float
    unexplained: float  # 0..1
    inverted: bool  # a negative gain would explain it better


def histogram(samples: Array) -> Histogram:
    """A histogram of `BINS` bins between the least and the largest value."""
    low, high = float(samples.min()), float(samples.max())
    if high <= low:
        high = low + 1e-12 + abs(low) * 1e-6
    counts, _ = np.histogram(samples, bins=BINS, range=(low, high))
    return Histogram(low=low, high=high, counts=tuple(int(count) for count in counts))


def compare(reference: Histogram, local: Histogram) -> Shift:
    """Compare two histograms by their quantiles ``R(u)`` and ``L(u)``.

    * drift: ``mean |L - R|`` over ``u`` (the 1-Wasserstein distance) over the reference's range;
    * gain and offset: least squares of ``L`` on ``R``;
    * unexplained: with the residual distance ``e = mean |L - (gain R + offset)|``, the larger of
      ``e / mean |L - R|`` (how much of the shift is left) and ``e / mean |L - median L|`` (how
      much of the local shape is left). The second is 1 for a constant, so that a model which only
      hits the right level explains nothing.
    """
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    wanted, found = quantiles(reference, levels), quantiles(local, levels)
    distance = float(np.mean(np.abs(found - wanted)))
    gain, offset = _fit(wanted, found)
    left = _residual(wanted, found)
    own = float(np.mean(np.abs(found - np.median(found))))
    shares = [left / whole for whole in (distance, own) if whole > 0]
    return Shift(
        drift=min(1.0, distance / max(reference.high - reference.low, 1e-30)),
        gain=gain,
        offset=offset,
        unexplained=min(1.0, max(shares, default=0.0)),
        inverted=_residual(-wanted[::-1], found) < left / 2,
    )


def quantiles(histogram: Histogram, levels: Array) -> Array:
    """Values below which the given shares of the counts lie, linear within a bin."""
    counts = np.asarray(histogram.counts, dtype=np.float64)
    ends = np.cumsum(counts)
    targets = levels * ends[-1]
    bins = np.minimum(np.searchsorted(ends, targets), len(counts) - 1)
    within = (targets - (ends[bins] - counts[bins])) / np.maximum(counts[bins], 1.0)
    width = (histogram.high - histogram.low) / len(counts)
    values: Array = histogram.low + width * (bins + within)
    return values


def deviation(histogram: Histogram) -> float:
    """Standard deviation of the values counted, up to the width of a bin."""
    counts = np.asarray(histogram.counts, dtype=np.float64)
    width = (histogram.high - histogram.low) / len(counts)
    centres = histogram.low + width * (np.arange(len(counts)) + 0.5)
    mean = float(np.average(centres, weights=counts))
    return float(np.sqrt(np.average((centres - mean) ** 2, weights=counts)))


def _fit(wanted: Array, found: Array) -> tuple[float, float]:
    centred = wanted - wanted.mean()
    spread = float(np.sum(centred**2))
    gain = float(np.sum(centred * (found - found.mean()))) / spread if spread else 0.0
    return gain, float(found.mean() - gain * wanted.mean())


def _residual(wanted: Array, found: Array) -> float:
    gain, offset = _fit(wanted, found)
    return float(np.mean(np.abs(found - (gain * wanted + offset))))
