"""Refit: the weights that stay, by least squares on the layer's own inputs.

For each output, with S the weights that stay and H = XᵀX,

    ŵ_S = argmin ‖X w − X_S ŵ_S‖² = (H_SS)⁻¹ H_S w

This is optimal brain surgeon's answer for a whole mask at once (Hassibi & Stork 1993), where
`sparsegpt` only lets later columns make up for earlier ones. It needs a solution for each output,
which is nothing for the layers of small networks.
"""

from __future__ import annotations

import numpy as np

from controller.compress.prune.sparse.layers import Double
from controller.compress.prune.sparse.selection import Mask

DAMPING = 0.01  # of the mean diagonal of H, pulling towards the weights as they were


def refit(matrix: Double, gram: Double, stays: Mask) -> Double:
    """Weights [outputs, K] that are zero outside ``stays`` and best keep the layer's outputs.

    Args:
        matrix: dense weights [outputs, K].
        gram: ``XᵀX`` [K, K] of the inputs, in any scale.
        stays: which weights may differ from zero.
    """
    level = max(float(np.diag(gram).mean()) * DAMPING, 1e-12)
    damped = gram + np.eye(len(gram)) * level
    found = np.zeros_like(matrix)
    for row, weights in enumerate(matrix):
        kept = np.flatnonzero(stays[row])
        gone = np.flatnonzero(~stays[row])
        owed = gram[np.ix_(kept, gone)] @ weights[gone]
        found[row, kept] = weights[kept] + np.linalg.solve(damped[np.ix_(kept, kept)], owed)
    return found
