"""What a layer sees, as rows: windows of a convolution's input, and their second moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.compress.graph.model import Array, Inputs, run_batches, with_outputs
from controller.compress.graph.windows import unfold
from controller.compress.quantize.adaround import Moments

ROWS = 8_192  # for each layer
_SEED = 20261124

Double = NDArray[np.float64]


class Rows:
    """Draws rows of one layer, the same places every time it is asked."""

    def __init__(
        self, node: onnx.NodeProto, weight_shape: Sequence[int], inputs: Inputs, batch: int
    ) -> None:
        self._node, self._shape = node, tuple(weight_shape)
        self._inputs, self._batch = inputs, batch
        self._per_input = max(1, ROWS // max(len(inputs), 1))

    def drawn(self, model: onnx.ModelProto, tensor: str) -> list[list[Array]]:
        """For each batch and group of a convolution, rows [n, K] of ``tensor`` in ``model``."""
        chance = np.random.default_rng(_SEED)
        found: list[list[Array]] = []

        def add(_names: list[str], values: list[Array]) -> None:
            found.append(unfold(self._node, values[0], self._shape, self._per_input, chance))

        run_batches(with_outputs(model, [tensor]), self._inputs, add, batch=self._batch)
        return found


def hessians(drawn: Sequence[Sequence[Array]]) -> list[Double]:
    """``XᵀX`` [K, K] for each group of a convolution."""
    return [_products(group, group) for group in zip(*drawn, strict=True)]


def moments(
    quantized: Sequence[Sequence[Array]], float32: Sequence[Sequence[Array]]
) -> list[tuple[Moments, Double, Double]]:
    """Moments of centred rows for each group, and both means [K], the quantized network's first."""
    found = []
    for seen, aimed in zip(zip(*quantized, strict=True), zip(*float32, strict=True), strict=True):
        count = sum(len(part) for part in seen)
        mean, aim = (
            np.sum([part.sum(0, np.float64) for part in x], 0) / count for x in (seen, aimed)
        )
        pair = Moments(
            hessian=_products(seen, seen) - count * np.outer(mean, mean),
            cross=_products(seen, aimed) - count * np.outer(mean, aim),
        )
        found.append((pair, mean, aim))
    return found


def _products(left: Sequence[Array], right: Sequence[Array]) -> Double:
    """A batch in float32, the sum not."""
    total = np.zeros((left[0].shape[1], right[0].shape[1]))
    for a, b in zip(left, right, strict=True):
        total += a.T @ b
    return total
