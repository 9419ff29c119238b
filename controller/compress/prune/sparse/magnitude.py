"""Magnitude: the smallest weights go first (Han et al. 2015, arXiv:1506.02626).

    s_ij = |W_ij|

Under one threshold for all layers it has a trap: a layer whose inputs are large has small weights
(the stem of a network that takes pixels of 0..255), and loses all of them. See `floor`.
"""

from __future__ import annotations

import numpy as np

from controller.compress.prune.sparse.layers import Double


def scores(matrix: Double, energy: Double | None = None) -> Double:
    """Scores [outputs, K]; the inputs are not looked at."""
    del energy
    return np.abs(matrix)
