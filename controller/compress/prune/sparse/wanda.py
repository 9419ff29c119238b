"""Wanda: magnitude times the size of what it is multiplied with (Sun et al. 2023).

    s_ij = |W_ij| · √(E x_j²)

arXiv:2306.11695, where scores are compared within one output, each of which loses the same share;
`selection` does that for the scope "layer". For the scope "global" each layer's scores are scaled
to unit energy, so that layers compare by what they add to their own outputs.
"""

from __future__ import annotations

import numpy as np

from controller.compress.prune.sparse.layers import Double
from controller.errors import FitError


def scores(matrix: Double, energy: Double | None = None) -> Double:
    """Scores [outputs, K] from weights and the mean squares of their inputs, of the same shape."""
    if energy is None:
        raise FitError("wanda scores need inputs")
    found = np.abs(matrix) * np.sqrt(energy)
    whole = float(np.sqrt((found**2).sum()))
    return found / max(whole, np.finfo(np.float64).tiny)
