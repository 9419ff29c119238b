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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import Array, Inputs, View, attributes, copied
from controller.compress.graph.normalize import normalized
from controller.compress.quantize.adaround import Moments, learn_rounding
from controller.compress.quantize.numbers import Rules
from controller.compress.quantize.rows import Rows, hessians, moments
from controller.errors import FitError

ROUNDINGS = ("gptq", "adaround", "both", "nearest")
DAMPING = 0.01  # of the mean diagonal of H
FRACTIONS = np.linspace(0.4, 1.0, 25)  # of max |w| that the levels may span

Double = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstructed:
    """The model, and for each changed layer how far its outputs are from the float weights'."""

    model: onnx.ModelProto
    sqnr_db: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One quantized layer: its node, and the tensors behind its DequantizeLinears."""

    node: onnx.NodeProto
    weights: onnx.TensorProto
    weight_scale: onnx.TensorProto
    bias: onnx.TensorProto
    bias_scale: onnx.TensorProto
    input_scale: float
    transposed: bool  # weights are [K, out]

    @property
    def shifts(self) -> bool:
        """Whether all scales are powers of two, so that new ones must be."""
        scales = np.append(numpy_helper.to_array(self.weight_scale), np.float32(self.input_scale))
        return bool((np.frexp(scales)[0] == 0.5).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which levels and scales one layer may have."""

    bits: int
    power_of_two: bool

    def scale(self, weights: Double, hessian: Double) -> Double:
        return best_scale(weights, hessian, self.bits, power_of_two=self.power_of_two)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounded:
    """Integer levels [out, K] of one layer, scales [out], and what its bias must give back."""

    levels: Double
    scales: Double
    moved: Double | float = 0.0  # E[X Wᵀ] − E[X̂ Ŵᵀ] [out]
    sqnr_db: float = 0.0


def reconstruct(
    fp32: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Inputs,
    *,
    bits: int,
    rounding: str = "gptq",
    whole: frozenset[str] = frozenset(),
    batch: int = 64,
) -> Reconstructed:
    """A copy of ``quantized`` whose weights use ``bits`` bits.

    Args:
        fp32: the float model that was quantized; its weights are the aim.
        quantized: its Q/DQ form with symmetric weights (from `static.quantize`).
        inputs: real inputs, float32 [N, …]; no labels.
        bits: 2 to 8.
        rounding: "gptq"; "adaround" (see `adaround`); or "both", which learns the rounding from
            where GPTQ ended; these two also correct each layer's bias as they go. "nearest" is
            plain rounding at the same scales, to compare with.
        whole: names of layers whose weights stay as they are.
        batch: inputs in one run.

    Raises:
        FitError: a rounding that is not known.
    """
    if rounding not in ROUNDINGS:
        raise FitError(f"unknown rounding '{rounding}', known: {', '.join(ROUNDINGS)}")
    result, base = copied(quantized), normalized(fp32)
    aims, named = _weights(base), {node.name: node for node in base.graph.node}
    quality = {}
    for layer in _layers(result):
        aim = aims.get(layer.node.name)
        if aim is None or layer.node.name in whole:
            continue
        source = Rows(layer.node, layer.weights.dims, inputs, batch)
        seen = source.drawn(result, layer.node.input[0])
        matrix = _matrix(aim, layer.transposed)
        plan = _Plan(bits=bits, power_of_two=layer.shifts)
        if rounding in ("gptq", "nearest"):
            rounded = _direct(matrix, hessians(seen), plan, compensate=rounding == "gptq")
        else:
            aimed = source.drawn(base, named[layer.node.name].input[0])
            rounded = _learned(matrix, moments(seen, aimed), plan, first=rounding == "both")
        _rewrite(layer, aim.shape, rounded)
        quality[layer.node.name] = rounded.sqnr_db
    onnx.checker.check_model(result)
    return Reconstructed(model=result, sqnr_db=quality)


def edges(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the first and the last layer, which suffer most from few bits."""
    heavy = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return frozenset(heavy[:1] + heavy[-1:])


def round_columns(weights: Double, hessian: Double, scale: Double, bits: int) -> Double:
    """Integer levels [out, K] of ``weights`` [out, K], compensated column by column.

    Args:
        weights: what should be approximated.
        hessian: ``XᵀX`` [K, K] of the layer's inputs.
        scale: one for each output [out].
        bits: levels are in ``±(2^(bits−1) − 1)``.
    """
    limit = 2 ** (bits - 1) - 1
    order = np.argsort(-np.diag(hessian), kind="stable")  # where errors cost most comes first
    left = weights[:, order].copy()
    upper = _inverse_factor(hessian[np.ix_(order, order)])
    levels = np.empty_like(left)
    for i in range(left.shape[1]):
        levels[:, i] = np.clip(np.rint(left[:, i] / scale), -limit, limit)
        error = (left[:, i] - levels[:, i] * scale) / upper[i, i]
        left[:, i + 1 :] -= np.outer(error, upper[i, i + 1 :])
    found = np.empty_like(levels)
    found[:, order] = levels
    return found


def best_scale(
    weights: Double, hessian: Double, bits: int, *, power_of_two: bool = False
) -> Double:
    """For each output the scale whose plain rounding does least harm, weighed by diag(H)."""
    rules = Rules(power_of_two=power_of_two)
    limit = 2 ** (bits - 1) - 1
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


def _inverse_factor(hessian: Double) -> Double:
    """Upper Cholesky factor of the inverse, damped; inputs that never vary get a diagonal."""
    damped = hessian.copy()
    level = max(float(np.diag(hessian).mean()) * DAMPING, 1e-12)
    damped[np.diag_indices_from(damped)] += level
    inverse = np.linalg.inv(damped)
    # cholesky gives L with A = L Lᵀ; wanted is U with A = Uᵀ U, which is Lᵀ.
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float64)


def _direct(matrix: Double, found: list[Double], plan: _Plan, *, compensate: bool) -> _Rounded:
    """GPTQ for each group of a convolution, or plain rounding."""
    levels, scales = [], []
    for part, hessian in zip(np.split(matrix, len(found)), found, strict=True):
        scale = plan.scale(part, hessian)
        aim = hessian if compensate else np.diag(np.diag(hessian))  # nothing to compensate with
        levels.append(round_columns(part, aim, scale, plan.bits))
        scales.append(scale)
    made = _Rounded(levels=np.concatenate(levels), scales=np.concatenate(scales))
    return replace(made, sqnr_db=_sqnr_db(matrix, made, found))


def _learned(
    matrix: Double, found: list[tuple[Moments, Double, Double]], plan: _Plan, *, first: bool
) -> _Rounded:
    """AdaRound for each group, from the nearest levels or (``first``) from GPTQ's."""
    parts = matrix.reshape(len(found), -1, matrix.shape[1])
    pairs, means, aims = zip(*found, strict=True)
    every = Moments(
        hessian=np.stack([pair.hessian for pair in pairs]),
        cross=np.stack([pair.cross for pair in pairs]),
    )
    scales = [plan.scale(part, h) for part, h in zip(parts, every.hessian, strict=True)]
    starts = [
        round_columns(part, h, scale, plan.bits)
        for part, h, scale in zip(parts, every.hessian, scales, strict=True)
        if first
    ]
    scale = np.stack(scales)
    start = np.stack(starts) if first else None
    levels = learn_rounding(parts, every, scale, plan.bits, start=start)
    moved = (
        parts @ np.stack(aims)[..., None] - (levels * scale[..., None]) @ np.stack(means)[..., None]
    )
    made = _Rounded(levels=levels.reshape(matrix.shape), scales=scale.ravel(), moved=moved.ravel())
    return replace(made, sqnr_db=_sqnr_db(matrix, made, list(every.hessian)))


def _sqnr_db(matrix: Double, made: _Rounded, found: list[Double]) -> float:
    """Of the layer's outputs, rounded weights against float ones on the same inputs."""
    share = len(matrix) // len(found)
    wrong = matrix - made.levels * made.scales[:, None]
    signal = noise = 0.0
    for group, hessian in enumerate(found):
        part = slice(group * share, (group + 1) * share)
        signal += float(((matrix[part] @ hessian) * matrix[part]).sum())
        noise += float(((wrong[part] @ hessian) * wrong[part]).sum())
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def _rewrite(layer: _Layer, shape: tuple[int, ...], made: _Rounded) -> None:
    """Write new levels, scales and bias of one layer."""
    bias = numpy_helper.to_array(layer.bias) * numpy_helper.to_array(layer.bias_scale)
    bias = bias + made.moved
    bias_scale = (layer.input_scale * made.scales).astype(np.float32)
    limits = np.iinfo(np.int32)
    stored = np.clip(np.rint(bias / bias_scale), limits.min, limits.max).astype(np.int32)
    _put(layer.weights, _unmatrix(made.levels, shape, layer.transposed).astype(np.int8))
    _put(layer.weight_scale, made.scales.astype(np.float32))
    _put(layer.bias, stored)
    _put(layer.bias_scale, bias_scale)


def _layers(model: onnx.ModelProto) -> Sequence[_Layer]:
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
        layer = _Layer(
            node=node, weights=weights, weight_scale=weight_scale, bias=stored_bias,
            bias_scale=bias_scale, input_scale=float(numpy_helper.to_array(step)),
            transposed=node.op_type == "Gemm" and not attributes(node).get("transB", 0),
        )  # fmt: skip
        found.append(layer)
    return found


def _weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Float weights by the names of their nodes."""
    view = View(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            value = view.constant(node.input[1])
            if value is not None:
                found[node.name] = value
    return found


def _matrix(weights: Array, transposed: bool) -> Double:
    values = weights.astype(np.float64)
    return values.T.copy() if transposed else values.reshape(len(values), -1)


def _unmatrix(matrix: Double, shape: tuple[int, ...], transposed: bool) -> Double:
    return matrix.T if transposed else matrix.reshape(shape)


def _put(tensor: onnx.TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
