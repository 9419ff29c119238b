"""SparseGPT: what a removed weight did is done by those that stay (Frantar & Alistarh 2023).

arXiv:2301.00774; optimal brain surgeon, one column at a time. With H = XᵀX of the layer's inputs
and U the upper Cholesky factor of H⁻¹ (damped), a weight's price is

    s_ij = (W_ij / U_jj)²

within a block of columns, whose cheapest weights go; a removed weight's error is pushed onto the
columns that are still to come:

    e = w_j / U_jj,    W[:, j:] −= e ⊗ U[j, j:]

Columns come in their own order, as in the paper, or in the groups of an N:M pattern.
"""

from __future__ import annotations

import numpy as np

from controller.compress.prune.sparse.layers import Double
from controller.compress.prune.sparse.selection import Mask, Pattern, cheapest, in_pattern

BLOCK = 128  # columns that share one threshold
DAMPING = 0.01  # of the mean diagonal of H


def prune(
    matrix: Double, gram: Double, sparsity: float, *, pattern: Pattern | None = None
) -> tuple[Double, Mask]:
    """Compensated weights [outputs, K] and which of them stay.

    Args:
        matrix: weights [outputs, K]; with a pattern its columns are in the pattern's order.
        gram: ``XᵀX`` [K, K] of the inputs, in any scale.
        sparsity: share of weights that go, 0..1; the pattern's own where there is one.
        pattern: of each `of` columns in a row, `keep` stay in every output.
    """
    left = matrix.copy()
    stays: Mask = np.ones(left.shape, bool)
    upper = inverse_factor(gram)
    block = BLOCK if pattern is None else pattern.of
    for start in range(0, left.shape[1], block):
        end = min(start + block, left.shape[1])
        price = (left[:, start:end] / np.diag(upper)[start:end]) ** 2
        if pattern is None:
            stays[:, start:end] = ~cheapest(price, sparsity)
        else:
            stays[:, start:end] = in_pattern(price, pattern)
        for column in range(start, end):
            error = np.where(stays[:, column], 0.0, left[:, column]) / upper[column, column]
            left[:, column:] -= np.outer(error, upper[column, column:])
            left[~stays[:, column], column] = 0.0
    return left, stays


def inverse_factor(gram: Double) -> Double:
    """Upper U with ``H⁻¹ = Uᵀ U`` [K, K], damped; inputs that never vary get a diagonal."""
    damped = gram + np.eye(len(gram)) * max(float(np.diag(gram).mean()) * DAMPING, 1e-12)
    inverse = np.linalg.inv(damped)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64)
