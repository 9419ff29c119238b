"""Few-bit weights that keep a layer's outputs: rounding with second-order compensation.

GPTQ (Frantar et al., 2022, arXiv:2210.17323), itself optimal brain surgeon one weight at a time.
For a layer ``Y = X Wᵀ`` the error ``‖X (W − Ŵ)ᵀ‖²`` has the Hessian ``H = XᵀX``. Columns are
rounded in order; what rounding column ``i`` does to the outputs is pushed onto the columns that
are still free: with ``U`` the upper Cholesky factor of ``H⁻¹``,

    e = (w_i − q_i) / U_ii,    W[:, i:] −= e ⊗ U[i, i:]

Weights stay int8 in the file and use ``2^bits − 1`` of its levels, so every runtime runs them as
before; what shrinks is the transfer, since the entropy coder sees few values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import (
    Array,
    Inputs,
    View,
    attributes,
    copied,
    run_batches,
    with_outputs,
)
from controller.compress.graph.normalize import normalized

ROWS = 8_192  # of X for each layer
BLOCK = 32  # columns whose errors are pushed on together
DAMPING = 0.01  # of the mean diagonal of H
FRACTIONS = np.linspace(0.4, 1.0, 25)  # of max |w| that the levels may span
_SEED = 20261124

Double = NDArray[np.float64]
Factor = tuple[NDArray[np.intp], Double]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstructed:
    """The model, and for each changed layer how far its outputs are from the float weights'."""

    model: onnx.ModelProto
    sqnr_db: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """New weights of one layer: integer levels in the file's shape, a scale for each output."""

    levels: NDArray[np.int8]
    scales: Double
    sqnr_db: float  # of the layer's own outputs, weights alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One quantized layer: its node, and the tensors behind its DequantizeLinears."""

    node: onnx.NodeProto
    weights: onnx.TensorProto
    weight_scale: onnx.TensorProto
    bias: onnx.TensorProto
    bias_scale: onnx.TensorProto
    input_scale: float
    transposed: bool  # weights are [K, out]


def reconstruct(
    fp32: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Inputs,
    *,
    bits: float | Mapping[str, float],
    whole: frozenset[str] = frozenset(),
    batch: int = 64,
) -> Reconstructed:
    """A copy of ``quantized`` whose weights use ``bits`` bits.

    Args:
        fp32: the float model that was quantized; its weights are the aim.
        quantized: its Q/DQ form with symmetric weights (from `static.quantize`).
        inputs: real inputs, float32 [N, …]; no labels.
        bits: 2 to 8 for all layers, or for those that are named; others stay as they are. Need
            not be whole: see `reach`.
        whole: names of layers whose weights stay as they are.
        batch: inputs in one run.
    """
    result = copied(quantized)
    aims = float_weights(fp32)
    quality = {}
    for layer in quantized_layers(result):
        name = layer.node.name
        aim = aims.get(name)
        wanted = bits.get(name) if isinstance(bits, Mapping) else bits
        if aim is None or wanted is None or name in whole:
            continue
        made = round_layer(layer, aim, hessians(result, layer, inputs, batch=batch), wanted)
        install(layer, made)
        quality[name] = made.sqnr_db
    onnx.checker.check_model(result)
    return Reconstructed(model=result, sqnr_db=quality)


def edges(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the first and the last layer, which suffer most from few bits."""
    heavy = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return frozenset(heavy[:1] + heavy[-1:])


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


def best_scale(weights: Double, hessian: Double, bits: float) -> Double:
    """For each output the scale whose plain rounding does least harm, weighed by diag(H)."""
    limit = reach(bits)
    largest = np.maximum(np.abs(weights).max(axis=1), 1e-12)
    weigh = np.diag(hessian)
    best: Array = np.full(len(weights), np.inf)
    chosen: Array = largest / limit
    for fraction in FRACTIONS:
        scale = fraction * largest / limit
        rounded = np.clip(np.rint(weights / scale[:, None]), -limit, limit) * scale[:, None]
        harm = ((weights - rounded) ** 2 * weigh).sum(axis=1)
        better = harm < best
        best, chosen = np.where(better, harm, best), np.where(better, scale, chosen)
    return np.asarray(chosen.astype(np.float32), np.float64)  # as the file will hold it


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


def round_layer(
    layer: Layer,
    aim: Array,
    hessians: Sequence[Double],
    bits: float,
    factors: Sequence[Factor | None] = (),
) -> Rounded:
    """Levels and scales of one layer whose float weights are ``aim``; nothing is written."""
    matrix = _matrix(aim, layer.transposed)
    share = len(matrix) // len(hessians)
    levels, scales = np.empty_like(matrix), np.empty(len(matrix))
    signal = noise = 0.0
    for group, hessian in enumerate(hessians):
        part = slice(group * share, (group + 1) * share)
        scales[part] = best_scale(matrix[part], hessian, bits)
        factor = factors[group] if factors else None
        levels[part] = round_columns(matrix[part], hessian, scales[part], bits, factor)
        wrong = matrix[part] - levels[part] * scales[part, None]
        signal += float(((matrix[part] @ hessian) * matrix[part]).sum())
        noise += float(((wrong @ hessian) * wrong).sum())
    return Rounded(
        levels=_unmatrix(levels, aim.shape, layer.transposed).astype(np.int8),
        scales=scales,
        sqnr_db=float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))),
    )


def install(layer: Layer, made: Rounded) -> None:
    """Write new weights into a layer's own model, and its bias in the units that they ask for."""
    bias = numpy_helper.to_array(layer.bias) * numpy_helper.to_array(layer.bias_scale)
    bias_scale = (layer.input_scale * made.scales).astype(np.float32)
    limits = np.iinfo(np.int32)
    stored = np.clip(np.rint(bias / bias_scale), limits.min, limits.max).astype(np.int32)
    _put(layer.weights, made.levels)
    _put(layer.weight_scale, made.scales.astype(np.float32))
    _put(layer.bias, stored)
    _put(layer.bias_scale, bias_scale)


def quantized_layers(model: onnx.ModelProto) -> Sequence[Layer]:
    """Convolutions and products with symmetric weights by channel, in the order of the graph."""
    view = View(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        sources = [view.producers.get(name) for name in node.input[:3]]
        if any(s is None or s.op_type != "DequantizeLinear" for s in sources):
            continue
        data, weight, bias = (s for s in sources if s is not None)
        tensors = [view.initializers.get(n) for n in (*weight.input[:2], *bias.input[:2])]
        step = view.initializers.get(data.input[1])
        if step is None or any(t is None for t in tensors):
            continue
        weights, weight_scale, stored_bias, bias_scale = (t for t in tensors if t is not None)
        if weights.data_type != onnx.TensorProto.INT8 or not weight_scale.dims:
            continue
        if attributes(node).get("auto_pad", b"NOTSET") != b"NOTSET":
            continue  # its padding is not written down
        layer = Layer(
            node=node, weights=weights, weight_scale=weight_scale, bias=stored_bias,
            bias_scale=bias_scale, input_scale=float(numpy_helper.to_array(step)),
            transposed=node.op_type == "Gemm" and not attributes(node).get("transB", 0),
        )  # fmt: skip
        found.append(layer)
    return found


def float_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Float weights of a model by the names that their nodes have in its normalized form."""
    model = normalized(model)
    view = View(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            value = view.constant(node.input[1])
            if value is not None:
                found[node.name] = value
    return found


def hessians(
    model: onnx.ModelProto, layer: Layer, inputs: Inputs, *, batch: int = 64
) -> list[Double]:
    """``XᵀX`` [K, K] of what the quantized layer sees, for each group of a convolution."""
    name = layer.node.input[0]
    per_input = max(1, ROWS // max(len(inputs), 1))
    chance = np.random.default_rng(_SEED)
    sums: list[Double] = []

    def add(_names: list[str], values: list[Array]) -> None:
        found = _unfold(layer.node, values[0], tuple(layer.weights.dims), per_input, chance)
        products = [(x.T @ x).astype(np.float64) for x in found]  # a batch in float32, the sum not
        sums[:] = [a + b for a, b in zip(sums, products, strict=True)] if sums else products

    run_batches(with_outputs(model, [name]), inputs, add, batch=batch)
    return sums


def _unfold(
    node: onnx.NodeProto,
    values: Array,
    weight_shape: tuple[int, ...],
    per_input: int,
    chance: np.random.Generator,
) -> list[Array]:
    """Some windows of a convolution's input as rows [n, K], in the order of its weights."""
    if node.op_type == "Gemm":
        return [values.reshape(len(values), -1)]
    options = attributes(node)
    kernel = weight_shape[2:]
    strides = options.get("strides") or [1] * len(kernel)
    dilations = options.get("dilations") or [1] * len(kernel)
    pads = options.get("pads") or [0] * (2 * len(kernel))
    around = [(pads[i], pads[i + len(kernel)]) for i in range(len(kernel))]
    padded = np.pad(values, [(0, 0), (0, 0), *around])
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    axes = tuple(range(2, 2 + len(kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    steps = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    where: tuple[Any, ...] = (slice(None), slice(None), *steps, *inner)
    windows = windows[where]
    places = windows.shape[2 : 2 + len(kernel)]
    total = int(np.prod(places))
    chosen = chance.choice(total, size=min(per_input, total), replace=False)
    index = np.unravel_index(chosen, places)
    where = (slice(None), slice(None), *index)
    picked = windows[where]  # [N, C, n, *kernel]
    picked = np.moveaxis(picked, 2, 1).reshape(-1, values.shape[1], *kernel)
    groups = int(options.get("group", 1))
    share = values.shape[1] // groups
    return [picked[:, g * share : (g + 1) * share].reshape(len(picked), -1) for g in range(groups)]


def _matrix(weights: Array, transposed: bool) -> Double:
    values = weights.astype(np.float64)
    return values.T.copy() if transposed else values.reshape(len(values), -1)


def _unmatrix(matrix: Double, shape: tuple[int, ...], transposed: bool) -> Double:
    return matrix.T if transposed else matrix.reshape(shape)


def _put(tensor: onnx.TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
