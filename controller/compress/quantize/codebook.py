"""Weights from a small codebook, in a float model: palettes, ternary, binary.

Nothing computes faster with these: the file holds float32 (or int8, once quantized) that takes few
values, which the entropy coder finds. They are about size only.

Palette (Han et al., 2016, arXiv:1510.00149): the weights of a layer go to the nearest of 2^b
centroids, found by k-means from centroids that are spread evenly over the range.

Ternary (TWN, Li et al., 2016, arXiv:1605.04711), for each output channel:

    Δ = 0.7 · E|W|,   α = E(|W| : |W| > Δ),   W ← α · sign(W) where |W| > Δ, else 0

Binary (XNOR-Net's weights, Rastegari et al., 2016, arXiv:1603.05279), for each output channel:

    α = E|W|,   W ← α · sign(W)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import Names, View, attributes
from controller.compress.graph.normalize import normalized

ROUNDS = 50  # of k-means; it has settled long before
TERNARY_SHARE = 0.7  # Δ as a share of E|W|

Double = NDArray[np.float64]
Rule = Callable[[Double], Double]  # weights [out, K] -> the same shape, few values


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """The model, the layers whose weights were replaced, and those that were left alone."""

    model: onnx.ModelProto
    sqnr_db: dict[str, float]  # of the weights, by layer
    left_alone: tuple[str, ...]


def encode(model: onnx.ModelProto, rule: Rule, *, whole: frozenset[str] = frozenset()) -> Coded:
    """A copy (in normalized form) whose layers' weights went through ``rule``.

    Args:
        model: float model.
        rule: `ternary`, `binary`, or ``lambda w: palette(w, bits)``.
        whole: names of layers whose weights stay as they are.
    """
    result = normalized(model)
    view, names = View(result), Names(result)
    quality, left = {}, []
    for node in result.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul", "ConvTranspose"):
            continue
        values = view.constant(node.input[1])
        if node.name in whole or values is None or not _plain(node, values):
            left.append(f"{node.op_type} '{node.name}'")
            continue
        flat = node.op_type != "Conv" and not attributes(node).get("transB", 0)
        matrix = values.astype(np.float64)
        matrix = matrix.T if flat else matrix.reshape(len(matrix), -1)
        made = rule(matrix)
        noise = float(((matrix - made) ** 2).sum())
        quality[node.name] = float(10 * np.log10((matrix**2).sum() / max(noise, 1e-30)))
        stored = np.ascontiguousarray(made.T if flat else made.reshape(values.shape), np.float32)
        name = names.fresh(f"{node.name}_coded")
        result.graph.initializer.append(numpy_helper.from_array(stored, name))
        node.input[1] = name
    onnx.checker.check_model(result)
    return Coded(model=normalized(result), sqnr_db=quality, left_alone=tuple(left))


def numbers_of(made: Coded) -> dict[str, float]:
    """What a pass records."""
    worst = min(made.sqnr_db.values(), default=float("inf"))
    return {
        "layers": len(made.sqnr_db),
        "left_alone": len(made.left_alone),
        "worst_layer_sqnr_db": worst,
    }


def palette(weights: Double, bits: int) -> Double:
    """Each weight's nearest centroid of ``2^bits``, by one-dimensional k-means over all of them."""
    values = np.sort(weights.ravel())
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centroids = np.linspace(values[0], values[-1], 2**bits)
    for _ in range(ROUNDS):
        edges = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [len(values)]])
        counts = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights)
    return np.asarray(centroids[nearest])


def ternary(weights: Double) -> Double:
    """``α · {−1, 0, 1}`` for each output [out, K]."""
    size = np.abs(weights)
    kept = size > TERNARY_SHARE * size.mean(axis=1, keepdims=True)
    scale = (size * kept).sum(axis=1, keepdims=True) / np.maximum(kept.sum(1, keepdims=True), 1)
    return np.asarray(np.sign(weights) * kept * scale)


def binary(weights: Double) -> Double:
    """``α · {−1, 1}`` for each output [out, K]; the sign of zero is plus."""
    scale = np.abs(weights).mean(axis=1, keepdims=True)
    return np.asarray(np.where(weights < 0, -scale, scale))


def _plain(node: onnx.NodeProto, values: NDArray[np.generic]) -> bool:
    if values.dtype != np.float32 or node.op_type == "ConvTranspose":
        return False
    return node.op_type == "Conv" or values.ndim == 2
