"""AdaRound: which way to round each weight is learned, so that a layer's outputs stay.

Nagel et al., 2020, arXiv:2004.10568. Each weight goes to one of two neighbouring levels,

    ŵ = s · clip(⌊w/s⌋ + h(V), −L, L),   h(V) = clip(1.2 · σ(V) − 0.1, 0, 1)

and V is found by gradient descent (Adam) on the asymmetric reconstruction error, what the layer
made of the float network's inputs against what it makes of the quantized network's, and a term
that drives h to 0 or 1 at the end:

    ‖X Wᵀ − X̂ Ŵᵀ‖² + λ Σ (1 − |2h − 1|^β),   β from 20 to 2

The error is a quadratic form in Ŵ, so that the descent needs moments of the inputs and no inputs:
with H = X̂ᵀX̂ and C = X̂ᵀX (both of centred inputs, since the mean is the bias's to correct)

    ‖X Wᵀ − X̂ Ŵᵀ‖² = tr(Ŵ H Ŵᵀ) − 2 tr(Ŵ C Wᵀ) + const,   ∂/∂Ŵ = 2 (Ŵ H − W Cᵀ)

It departs from the paper there, in leaving the layer's ReLU out of the error, in weighing each
output channel by its error under plain rounding, and in two steps at the end: single weights that
are better the other way are turned, and a channel whose error did not shrink keeps the levels it
started from. Nothing in it is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.compress.quantize.gptq import reach

Double = NDArray[np.float64]

STEPS = 500
RATE = 0.1  # of Adam
STRENGTH = 5.0  # λ, where plain rounding costs a channel an error of 1 a weight
WARM_UP = 0.2  # share of the steps without the second term
BETA = (20.0, 2.0)
_STRETCH, _SHIFT = 1.2, -0.1
_DECAY = (0.9, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Second moments of one layer's inputs, the sum over rows; float64 [K, K] or [groups, K, K].

    ``hessian`` is ``X̂ᵀX̂`` and ``cross`` ``X̂ᵀX``, with X̂ what the quantized network feeds the
    layer and X what the float network does.
    """

    hessian: Double
    cross: Double

    def error(self, weights: Double, rounded: Double) -> Double:
        """``‖X W_oᵀ − X̂ Ŵ_oᵀ‖²`` of each output [out], less what no rounding can change."""
        made = ((rounded @ self.hessian) * rounded).sum(axis=-1)
        return np.asarray(made - 2 * ((rounded @ self.cross) * weights).sum(axis=-1))


def learn_rounding(
    weights: Double,
    moments: Moments,
    scale: Double,
    bits: float,
    *,
    start: Double | None = None,
    steps: int = STEPS,
) -> Double:
    """Integer levels [out, K] for ``weights`` [out, K]; all may have a leading axis of groups.

    Args:
        weights: what should be approximated.
        moments: of the layer's inputs.
        scale: one for each output [out].
        bits: levels are in ``±gptq.reach(bits)``.
        start: levels to start from instead of the nearest ones; a weight may then go to its start
            or to the level beside it on the side of ``weights``.
        steps: of the descent.
    """
    limit = float(reach(bits))
    exact = weights / scale[..., None]
    nearest = np.clip(np.rint(exact), -limit, limit)
    begin = nearest if start is None else start
    below = np.floor(exact) if start is None else np.where(exact >= start, start, start - 1)
    below = np.clip(below, -limit, limit - 1)
    part = (
        np.clip(exact - below, 0.0, 1.0) if start is None else 0.5 + 0.3 * (2 * (begin - below) - 1)
    )
    weigh = _weigh(weights, nearest * scale[..., None], moments)
    share = _descend(below, part, weights, moments, scale, weigh, steps)
    found = _turned(below, share >= 0.5, weights, moments, scale)
    found = np.where(weights == 0, 0.0, found)  # pruning put it there
    before = moments.error(weights, begin * scale[..., None])
    after = moments.error(weights, found * scale[..., None])
    return np.where((after < before)[..., None], found, begin)


def _weigh(weights: Double, rounded: Double, moments: Moments) -> Double:
    """For each output, what makes the error of plain rounding as large as its number of weights."""
    wrong = weights - rounded
    error = ((wrong @ moments.hessian) * wrong).sum(axis=-1)
    signal = ((weights @ moments.hessian) * weights).sum(axis=-1)
    return np.asarray(weights.shape[-1] / np.maximum(error, 1e-12 * signal + 1e-30))


def _descend(
    below: Double,
    part: Double,
    weights: Double,
    moments: Moments,
    scale: Double,
    weigh: Double,
    steps: int,
) -> Double:
    """``h`` [out, K] after the descent, from ``part``; in float32, which is twice as fast."""
    aims = weights @ np.swapaxes(moments.cross, -1, -2)
    aim = (aims - (below * scale[..., None]) @ moments.hessian).astype(np.float32)
    v = -np.log(_STRETCH / (np.clip(part, 0.01, 0.99).astype(np.float32) - _SHIFT) - 1)
    first, second = np.zeros_like(v), np.zeros_like(v)
    step_size, hessian = scale[..., None].astype(np.float32), moments.hessian.astype(np.float32)
    outer = (2 * weigh * scale)[..., None].astype(np.float32)
    h = part.astype(np.float32)
    for step in range(steps):
        smooth = 1 / (1 + np.exp(-v))
        h = np.clip(_STRETCH * smooth + _SHIFT, 0.0, 1.0)
        slope = outer * ((h * step_size) @ hessian - aim)
        progress = (step / steps - WARM_UP) / (1 - WARM_UP)
        if progress > 0:
            beta = BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(progress * math.pi))
            away = 2 * h - 1
            slope -= STRENGTH * 2 * beta * np.sign(away) * np.abs(away) ** (beta - 1)
        inside = (h > 0) & (h < 1)
        slope *= np.where(inside, _STRETCH * smooth * (1 - smooth), 0.0)
        first += (1 - _DECAY[0]) * (slope - first)
        second += (1 - _DECAY[1]) * (slope * slope - second)
        fair = math.sqrt(1 - _DECAY[1] ** (step + 1)) / (1 - _DECAY[0] ** (step + 1))
        v -= RATE * fair * first / (np.sqrt(second) + 1e-12)
    return np.asarray(h, np.float64)


def _turned(
    below: Double, up: NDArray[np.bool_], weights: Double, moments: Moments, scale: Double
) -> Double:
    """Levels after turning, in each output, the one weight that gains most, until none does."""
    step_size = scale[..., None]
    found = below + up
    diagonal = np.diagonal(moments.hessian, axis1=-2, axis2=-1)[..., None, :]
    aim = weights @ np.swapaxes(moments.cross, -1, -2)
    slope = (found * step_size) @ moments.hessian - aim
    for _ in range(weights.shape[-1]):
        move = np.where(found > below, -step_size, step_size)
        change = move * (2 * slope + move * diagonal)
        best = change.argmin(axis=-1)[..., None]
        gains = np.take_along_axis(change, best, -1) < 0
        if not gains.any():
            break
        moved = np.where(gains, np.take_along_axis(move, best, -1), 0.0)
        turned = np.zeros_like(found)
        np.put_along_axis(turned, best, moved, -1)
        found += np.rint(turned / step_size)
        slope += turned @ moments.hessian
    return np.asarray(found)
