"""LAMP: magnitude made comparable between layers (Lee et al. 2021, arXiv:2010.07611).

    s(w) = w² / Σ_{v : |v| ≥ |w|} v²

over the weights of one layer: its share of what would still be there when all smaller ones are
gone. The largest weight of each layer scores 1, so no layer loses all of its weights before the
others do.
"""

from __future__ import annotations

import numpy as np

from controller.compress.prune.sparse.layers import Double


def scores(matrix: Double, energy: Double | None = None) -> Double:
    """Scores [outputs, K]; the inputs are not looked at. Equal weights go by their place."""
    del energy
    flat = (matrix**2).ravel()
    order = np.argsort(flat, kind="stable")
    remaining = np.cumsum(flat[order][::-1])[::-1]
    found = np.empty_like(flat)
    found[order] = flat[order] / np.maximum(remaining, np.finfo(np.float64).tiny)
    return found.reshape(matrix.shape)
