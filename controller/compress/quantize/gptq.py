"""Rounding with second-order compensation, one layer's matrix at a time.

GPTQ (Frantar et al., 2022, arXiv:2210.17323), itself optimal brain surgeon one weight at a time.
For a layer ``Y = X Wᵀ`` the error ``‖X (W − Ŵ)ᵀ‖²`` has the Hessian ``H = XᵀX``. Columns are
rounded in order; what rounding column ``i`` does to the outputs is pushed onto the columns that
are still free: with ``U`` the upper Cholesky factor of ``H⁻¹``,

    e = (w_i − q_i) / U_ii,    W[:, i:] −= e ⊗ U[i, i:]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.compress.graph.model import Array
from controller.compress.quantize.numbers import Rules

BLOCK = 32  # columns whose errors are pushed on together
DAMPING = 0.01  # of the mean diagonal of H
FRACTIONS = np.linspace(0.4, 1.0, 25)  # of max |w| that the levels may span

Double = NDArray[np.float64]
Factor = tuple[NDArray[np.intp], Double]


def reach(bits: float) -> int:
    """The greatest level: ``2^(bits−1) − 1``. Five levels are 2.585 bits, and reach to 2."""
    levels: float = 2.0 ** (bits - 1)
    return max(1, round(levels) - 1)


def round_columns(
    weights: Double, hessian: Double, scale: Double, bits: float, factor: Factor | None = None
) -> Double:
    """Integer levels [out, K] of ``weights`` [out, K], compensated column by column.

    Weights that are zero stay zero: pruning put them there, and others make up for them already.

    Args:
        weights: what should be approximated.
        hessian: ``XᵀX`` [K, K] of the layer's inputs.
        scale: one for each output [out].
        bits: levels are in ``±reach(bits)``.
        factor: `factored(hessian)`, if it is known already.
    """
    limit = reach(bits)
    order, upper = factor or factored(hessian)
    left = weights[:, order].copy()
    levels = np.empty_like(left)
    zero = left == 0
    errors = np.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        for i in range(start, end):
            rounded = np.clip(np.rint(left[:, i] / scale), -limit, limit)
            levels[:, i] = np.where(zero[:, i], 0.0, rounded)
            errors[:, i] = (left[:, i] - levels[:, i] * scale) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(errors[:, i], upper[i, i + 1 : end])
        # Columns further on get a block's errors in one product: the same sums, far faster.
        left[:, end:] -= errors[:, start:end] @ upper[start:end, end:]
    found = np.empty_like(levels)
    found[:, order] = levels
    return found


def best_scale(
    weights: Double, hessian: Double, bits: float, *, power_of_two: bool = False
) -> Double:
    """For each output the scale whose plain rounding does least harm, weighed by diag(H)."""
    rules = Rules(power_of_two=power_of_two)
    limit = reach(bits)
    largest = np.maximum(np.abs(weights).max(axis=1), 1e-12)
    weigh = np.diag(hessian)
    best: Array = np.full(len(weights), np.inf)
    chosen: Array = rules.scale(largest / limit)
    for fraction in FRACTIONS:
        scale = rules.scale(fraction * largest / limit).astype(np.float64)  # as the file holds it
        rounded = np.clip(np.rint(weights / scale[:, None]), -limit, limit) * scale[:, None]
        harm = ((weights - rounded) ** 2 * weigh).sum(axis=1)
        better = harm < best
        best, chosen = np.where(better, harm, best), np.where(better, scale, chosen)
    return np.asarray(chosen, np.float64)


def factored(hessian: Double) -> Factor:
    """The order of the columns, costly errors first, and ``U`` of the so ordered Hessian."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    return order, _inverse_factor(hessian[np.ix_(order, order)])


def _inverse_factor(hessian: Double) -> Double:
    """Upper Cholesky factor of the inverse, damped; inputs that never vary get a diagonal."""
    damped = hessian.copy()
    level = max(float(np.diag(hessian).mean()) * DAMPING, 1e-12)
    damped[np.diag_indices_from(damped)] += level
    inverse = np.linalg.inv(damped)
    # cholesky gives L with A = L Lᵀ; wanted is U with A = Uᵀ U, which is Lᵀ.
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64)
