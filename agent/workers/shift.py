"""Has the input shifted, and which change of the sensor explains how?

Both questions are asked of histograms alone: no label, no model, and nothing of the correction
that the answer may allow. Two explanations are known, in this order:

* *straight*: ``local = gain * reference + offset``, by least absolute deviations of quantiles.
  The distance that is left is then the one that is minimized, and half of the pixels lying at
  black holds the line there, whatever the other half shows: on 256 photographs of three kinds
  of shoes the least *squares* put black 0.04 of the range off, these not at all.
* *toned*: ``local = gain * tone(reference) + offset`` with a power of the place in the
  reference's range (`fitment.core.patch.InputCorrection`). Other classes bend a histogram much
  like a power does, so it must explain nearly everything, where a straight line does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agent.workers.runtimes.base import Array
from fitment.core.histogram import BINS, Histogram

UNEXPLAINED_MAX = 0.5
"""Largest share that a straight line may leave. Chosen on pictures of the training file: 256 of
one class only, seen through gains and offsets, leave up to 0.5 and are put right all the same;
inverted, noisy, clipped or blurred ones leave 0.7 and more, but for those that other evidence
tells (`agent.workers.gate`)."""

STRAIGHT_GOOD = 0.15  # a line that leaves no more is taken without asking for a tone
TONED_MAX = 0.15  # a tone must leave no more than this …
TONED_SHAPE_MAX = 0.05  # … and this of the local shape: other classes leave 0.06 and more

_LEVELS = 1000
_END = 1.0 / 256.0  # of the range
_STEPS = 60  # of reweighting; 30 already agree to three digits
_FEW_STEPS = 12  # while a tone is searched
TONE_MAX = 4.0  # exponents are searched from its inverse to it
_TONES = np.exp(np.linspace(-1.0, 1.0, 29) * np.log(TONE_MAX))
_FINER = np.linspace(-0.1, 0.1, 11)  # around the best of them, in logarithms


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """``local = gain * tone(reference) + offset``, and what it leaves."""

    drift: float  # normalized 1-Wasserstein distance, 0..1
    gain: float
    offset: float
    unexplained: float  # 0..1
    inverted: bool  # a negative gain would explain it better
    exponent: float = 1.0  # of the tone


def histogram(samples: Array) -> Histogram:
    """A histogram of `BINS` bins between the least and the largest value."""
    low, high = float(samples.min()), float(samples.max())
    if high <= low:
        high = low + 1e-12 + abs(low) * 1e-6
    counts, _ = np.histogram(samples, bins=BINS, range=(low, high))
    return Histogram(low=low, high=high, counts=tuple(int(count) for count in counts))


def compare(reference: Histogram, local: Histogram, *, toned: bool = False) -> Shift:
    """Compare two histograms by their quantiles ``R(u)`` and ``L(u)``.

    * drift: ``mean |L - R|`` over ``u`` (the 1-Wasserstein distance) over the reference's range;
    * gain and offset: least absolute deviations of ``L`` from ``gain R + offset``;
    * unexplained: with the residual distance ``e = mean |L - (gain R + offset)|``, the larger of
      ``e / mean |L - R|`` (how much of the shift is left) and ``e / mean |L - median L|`` (how
      much of the local shape is left). The second is 1 for a constant, so that a model which only
      hits the right level explains nothing.

    ``toned``: a power may explain what a line does not; otherwise ``exponent`` is 1.
    """
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    wanted, found = quantiles(reference, levels), quantiles(local, levels)
    span = max(reference.high - reference.low, 1e-30)
    gain, offset = _line(wanted, found)
    left = _distance(wanted, found, gain, offset)
    straight = Shift(
        drift=min(1.0, float(np.mean(np.abs(found - wanted))) / span),
        gain=gain,
        offset=offset,
        unexplained=_share(left, wanted, found),
        inverted=_distance(-wanted[::-1], found, *_line(-wanted[::-1], found)) < left / 2,
    )
    if not toned or straight.unexplained <= STRAIGHT_GOOD or straight.inverted:
        return straight
    return _toned(straight, (wanted - reference.low) / span, found, (wanted, reference.low, span))


def refit(reference: Histogram, local: Histogram, exponent: float) -> tuple[float, float]:
    """Gain and offset alone, for a tone that is known."""
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    wanted, found = quantiles(reference, levels), quantiles(local, levels)
    if exponent == 1.0:
        return _line(wanted, found)
    span = max(reference.high - reference.low, 1e-30)
    scale, black = _line(np.maximum((wanted - reference.low) / span, 0.0) ** exponent, found)
    gain = scale / span
    return gain, black - gain * reference.low


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


def ends(histogram: Histogram, exponent: float = 1.0) -> tuple[float, float]:
    """Shares of the counts in the lowest and the highest 1/256 of the range, seen with a tone."""
    counts = np.asarray(histogram.counts, dtype=np.float64)
    lowest = len(counts) * _END ** (1.0 / exponent)
    highest = len(counts) * (1.0 - (1.0 - _END) ** (1.0 / exponent))
    low, high = (max(1, round(width)) for width in (lowest, highest))
    total = max(float(counts.sum()), 1.0)
    return float(counts[:low].sum()) / total, float(counts[-high:].sum()) / total


def _toned(
    straight: Shift, places: Array, found: Array, reference: tuple[Array, float, float]
) -> Shift:
    """With the tone that leaves least, where it leaves almost nothing; else as it was.

    One that keeps black and white where they were has one number to fit, and not three: it goes
    first.
    """
    wanted, low, span = reference
    places = np.maximum(places, 0.0)

    def kept(exponent: float) -> tuple[float, float]:
        del exponent
        return span, low

    def free(exponent: float) -> tuple[float, float]:
        return _line(places**exponent, found, _FEW_STEPS)

    own = float(np.mean(np.abs(found - np.median(found))))
    for line in (kept, free):
        exponent = _best_tone(places, found, line)
        bent = places**exponent
        scale, black = line(exponent) if line is kept else _line(bent, found)
        rest = _distance(bent, found, scale, black)
        gain, share = scale / span, _share(rest, wanted, found)
        if gain > 0 and share <= TONED_MAX and rest <= TONED_SHAPE_MAX * own:
            return replace(
                straight, gain=gain, offset=black - gain * low, exponent=exponent, unexplained=share
            )
    return straight


def _best_tone(places: Array, found: Array, line: Callable[[float], tuple[float, float]]) -> float:
    def left(exponent: float) -> float:
        return _distance(places**exponent, found, *line(exponent))

    return float(min(min(_TONES, key=left) * np.exp(_FINER), key=left))


def _share(left: float, wanted: Array, found: Array) -> float:
    distance = float(np.mean(np.abs(found - wanted)))
    own = float(np.mean(np.abs(found - np.median(found))))
    shares = [left / whole for whole in (distance, own) if whole > 0]
    return min(1.0, max(shares, default=0.0))


def _line(wanted: Array, found: Array, steps: int = _STEPS) -> tuple[float, float]:
    """Gain and offset of least absolute deviations, by reweighted least squares."""
    near = 1e-4 * float(np.ptp(found)) + 1e-30
    gain, offset = _weighted(wanted, found, np.ones_like(found))
    for _ in range(steps):
        weights = 1.0 / np.maximum(np.abs(found - gain * wanted - offset), near)
        gain, offset = _weighted(wanted, found, weights)
    return gain, offset


def _weighted(wanted: Array, found: Array, weights: Array) -> tuple[float, float]:
    total = float(weights.sum())
    middle, level = float(weights @ wanted) / total, float(weights @ found) / total
    centred = wanted - middle
    spread = float(weights @ centred**2)
    gain = float((weights * centred) @ (found - level)) / spread if spread else 0.0
    return gain, level - gain * middle


def _distance(wanted: Array, found: Array, gain: float, offset: float) -> float:
    return float(np.mean(np.abs(found - (gain * wanted + offset))))
