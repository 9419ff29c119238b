"""Few-bit weights that keep a layer's outputs, by compensated or learned rounding.

`gptq` and `adaround` round one matrix; here they are led through a network, layer by layer.

Weights stay int8 in the file and use ``2^bits − 1`` of its levels, so every runtime runs them as
before; what shrinks is the transfer, since the entropy coder sees few values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from controller.compress.graph.model import Array, Inputs, copied
from controller.compress.graph.normalize import normalized
from controller.compress.quantize.adaround import Moments, learn_rounding
from controller.compress.quantize.gptq import Double, Factor, best_scale, round_columns
from controller.compress.quantize.layers import (
    Layer,
    Rounded,
    as_matrix,
    float_weights,
    from_matrix,
    install,
    quantized_layers,
)
from controller.compress.quantize.rows import Rows, hessians, moments
from controller.errors import FitError

ROUNDINGS = ("gptq", "adaround", "both", "nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstructed:
    """The model, and for each changed layer how far its outputs are from the float weights'."""

    model: onnx.ModelProto
    sqnr_db: dict[str, float]


def reconstruct(
    fp32: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: Inputs,
    *,
    bits: float | Mapping[str, float],
    rounding: str = "gptq",
    whole: frozenset[str] = frozenset(),
    batch: int = 64,
) -> Reconstructed:
    """A copy of ``quantized`` whose weights use ``bits`` bits.

    Args:
        fp32: the float model that was quantized; its weights are the aim.
        quantized: its Q/DQ form with symmetric weights (from `static.quantize`).
        inputs: real inputs, float32 [N, …]; no labels.
        bits: 2 to 8 for all layers, or for those that are named; others stay as they are. Need
            not be whole: see `gptq.reach`.
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
    aims, named = float_weights(fp32), {node.name: node for node in base.graph.node}
    quality = {}
    for layer in quantized_layers(result):
        name = layer.node.name
        aim = aims.get(name)
        wanted = bits.get(name) if isinstance(bits, Mapping) else bits
        if aim is None or wanted is None or name in whole:
            continue
        source = Rows(layer.node, layer.weights.dims, inputs, batch)
        seen = source.drawn(result, layer.node.input[0])
        if rounding in ("gptq", "nearest"):
            plain = rounding == "nearest"
            made = round_layer(layer, aim, hessians(seen), wanted, compensate=not plain)
        else:
            aimed = source.drawn(base, named[name].input[0])
            made = learn_layer(layer, aim, moments(seen, aimed), wanted, first=rounding == "both")
        install(layer, made)
        quality[name] = made.sqnr_db
    onnx.checker.check_model(result)
    return Reconstructed(model=result, sqnr_db=quality)


def edges(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the first and the last layer, which suffer most from few bits."""
    heavy = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return frozenset(heavy[:1] + heavy[-1:])


def layer_hessians(
    model: onnx.ModelProto, layer: Layer, inputs: Inputs, *, batch: int = 64
) -> list[Double]:
    """``XᵀX`` [K, K] of what the quantized layer sees, for each group of a convolution."""
    source = Rows(layer.node, layer.weights.dims, inputs, batch)
    return hessians(source.drawn(model, layer.node.input[0]))


def round_layer(
    layer: Layer,
    aim: Array,
    found: Sequence[Double],
    bits: float,
    factors: Sequence[Factor | None] = (),
    *,
    compensate: bool = True,
) -> Rounded:
    """Levels and scales of one layer whose float weights are ``aim``; nothing is written.

    Args:
        layer: of a quantized model.
        aim: its float weights, in the file's shape.
        found: ``XᵀX`` for each group of a convolution.
        bits: see `gptq.reach`.
        factors: `gptq.factored` of each, where they are known.
        compensate: False rounds each weight by itself.
    """
    matrix = as_matrix(aim, layer.transposed)
    levels, scales = [], []
    for group, (part, hessian) in enumerate(zip(np.split(matrix, len(found)), found, strict=True)):
        scale = best_scale(part, hessian, bits, power_of_two=layer.shifts)
        seen = hessian if compensate else np.diag(np.diag(hessian))  # nothing to compensate with
        factor = factors[group] if factors else None
        levels.append(round_columns(part, seen, scale, bits, factor))
        scales.append(scale)
    return _rounded(layer, aim, np.concatenate(levels), np.concatenate(scales), found)


def learn_layer(
    layer: Layer,
    aim: Array,
    found: Sequence[tuple[Moments, Double, Double]],
    bits: float,
    *,
    first: bool,
) -> Rounded:
    """AdaRound for each group, from the nearest levels or (``first``) from GPTQ's."""
    matrix = as_matrix(aim, layer.transposed)
    parts = matrix.reshape(len(found), -1, matrix.shape[1])
    pairs, means, aims = zip(*found, strict=True)
    every = Moments(
        hessian=np.stack([pair.hessian for pair in pairs]),
        cross=np.stack([pair.cross for pair in pairs]),
    )
    both = list(zip(parts, every.hessian, strict=True))
    scales = [best_scale(part, h, bits, power_of_two=layer.shifts) for part, h in both]
    starts = [
        round_columns(part, h, scale, bits)
        for (part, h), scale in zip(both, scales, strict=True)
        if first
    ]
    scale = np.stack(scales)
    levels = learn_rounding(parts, every, scale, bits, start=np.stack(starts) if first else None)
    moved = (
        parts @ np.stack(aims)[..., None] - (levels * scale[..., None]) @ np.stack(means)[..., None]
    )
    flat = levels.reshape(matrix.shape)
    return _rounded(layer, aim, flat, scale.ravel(), list(every.hessian), moved=moved.ravel())


def _rounded(
    layer: Layer,
    aim: Array,
    levels: Double,
    scales: Double,
    found: Sequence[Double],
    *,
    moved: Double | float = 0.0,
) -> Rounded:
    """With the SQNR of the layer's outputs, rounded weights against float ones."""
    matrix = as_matrix(aim, layer.transposed)
    share = len(matrix) // len(found)
    wrong = matrix - levels * scales[:, None]
    signal = noise = 0.0
    for group, hessian in enumerate(found):
        part = slice(group * share, (group + 1) * share)
        signal += float(((matrix[part] @ hessian) * matrix[part]).sum())
        noise += float(((wrong[part] @ hessian) * wrong[part]).sum())
    return Rounded(
        levels=from_matrix(levels, aim.shape, layer.transposed).astype(np.int8),
        scales=scales,
        sqnr_db=float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))),
        moved=moved,
    )
