"""Cross-layer equalization: even out the ranges of channels without changing the function.

Nagel et al., 2019, arXiv:1906.04721. A ReLU lets positive factors through, so channel ``i`` between
two layers may be divided by ``s_i`` in the first and multiplied by it in the second:

    W¹_i ← W¹_i / s_i,   b¹_i ← b¹_i / s_i,   W²_i ← s_i · W²_i,   s_i = √(r¹_i / r²_i)

with ``r`` the largest absolute weight of the channel; then both ranges are ``√(r¹_i r²_i)``. One
scale for a whole weight tensor, and 8 bits, fit such channels better.

Generalized to *seams*: all tensors that must share factors, joined by what lets them through
(ReLU, pooling, a sum of two). Every layer that writes a seam is divided, every one that reads it
multiplied; with several of either, ``r`` is their geometric mean. A seam that touches anything
else (an input or output of the model, a sigmoid, a clip that bites) is left alone and listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from controller.compress.graph.model import Array, Inputs, Names, View
from controller.compress.graph.normalize import normalized, replace_nodes
from controller.compress.graph.seams import Double, Layer, Seam, layers_of, seams_of
from controller.compress.graph.subgraphs import drop_unread
from controller.compress.quantize import ranges

SWEEPS = 60  # over all seams; a seam moves its neighbours
SETTLED = 1e-4  # of log s, when a sweep has nothing left to do
NEGLIGIBLE = 1e-5  # of the tensor's largest weight: such a channel is dead, and keeps its scale
LIMIT = 1e4  # of a channel's whole factor; beyond it biases would blow up


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalized:
    """The model, the seams that were evened out, and those that were not with the reason."""

    model: onnx.ModelProto
    seams: tuple[str, ...]  # "conv1 > conv2, conv3"
    left_alone: tuple[str, ...]  # "conv1 > …: Sigmoid 'gate' lets no factor through"
    unclipped: tuple[str, ...]  # clips that no calibration input reached, now ReLUs
    largest_factor: float  # max of s and 1/s; 1.0 where nothing was done


def equalize(model: onnx.ModelProto, inputs: Inputs | None = None) -> Equalized:
    """A copy (in normalized form) that answers the same and has even channels.

    Args:
        model: float model, batch normalizations folded.
        inputs: real inputs, float32 [N, …]. With them a clip whose upper bound was never reached
            becomes a ReLU; without, a clip keeps its seam from being touched.
    """
    result = normalized(model)
    layers = layers_of(result)
    seams = seams_of(result, layers)
    free = _unreached(result, [clip for seam in seams for clip in seam.clips], inputs)
    for seam in seams:
        bites = [clip.name for clip in seam.clips if clip.name not in free]
        seam.reasons += [f"Clip '{name}' has an upper bound that bites" for name in bites]
    usable = [seam for seam in seams if not seam.reasons]
    unclipped = [clip.name for seam in usable for clip in seam.clips]
    factor = _even_out(usable)
    touched = {layer.node.name: layer for s in usable for layer in (*s.writers, *s.readers)}
    _write(result, list(touched.values()))
    _to_relu(result, frozenset(unclipped))
    onnx.checker.check_model(result)
    return Equalized(
        model=result,
        seams=tuple(seam.name for seam in usable),
        left_alone=tuple(f"{s.name}: {s.reasons[0]}" for s in seams if s.reasons),
        unclipped=tuple(unclipped),
        largest_factor=factor,
    )


def factors(out_range: Double, in_range: Double) -> Double:
    """``s = √(r¹ / r²)`` for each channel; 1 for a channel that is dead on either side."""
    alive = (out_range > NEGLIGIBLE * out_range.max(initial=0.0)) & (
        in_range > NEGLIGIBLE * in_range.max(initial=0.0)
    )
    ratio = np.divide(out_range, in_range, out=np.ones_like(out_range), where=alive)
    return np.asarray(np.sqrt(ratio))


def _even_out(seams: Sequence[Seam]) -> float:
    """Sweep until nothing moves; returns the largest factor of a channel, or its inverse."""
    totals = [np.ones(seam.writers[0].channels) for seam in seams]
    for _ in range(SWEEPS):
        moved = 0.0
        for seam, total in zip(seams, totals, strict=True):
            out_range = _mean([layer.out_range() for layer in seam.writers])
            in_range = _mean([layer.in_range(len(total)) for layer in seam.readers])
            wanted = np.clip(total * factors(out_range, in_range), 1 / LIMIT, LIMIT)
            step, total[:] = wanted / total, wanted
            for layer in seam.writers:
                layer.divide_outputs(step)
            for layer in seam.readers:
                layer.multiply_inputs(step)
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < SETTLED:
            break
    logs = [float(np.abs(np.log(total)).max()) for total in totals]
    return float(np.exp(max(logs, default=0.0)))


def _mean(found: Sequence[Double]) -> Double:
    """Geometric mean; one that is dead anywhere is dead."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.mean(np.log(np.stack(found)), axis=0)))


def _unreached(
    model: onnx.ModelProto, clips: Sequence[onnx.NodeProto], inputs: Inputs | None
) -> frozenset[str]:
    """Names of clips without an upper bound, or whose bound no input reached."""
    view = View(model)
    bounds = {}
    for clip in clips:
        high = view.constant(clip.input[2]) if len(clip.input) > 2 and clip.input[2] else None
        unbounded = len(clip.input) < 3 or not clip.input[2]
        bounds[clip.name] = np.inf if unbounded else -np.inf if high is None else float(high.max())
    finite = any(np.isfinite(bound) for bound in bounds.values())
    seen = ranges.collect(model, inputs) if finite and inputs is not None else {}
    free = set()
    for clip in clips:
        found = seen.get(clip.output[0])
        if bounds[clip.name] == np.inf or (found and found.high < bounds[clip.name]):
            free.add(clip.name)
    return frozenset(free)


def _write(model: onnx.ModelProto, layers: Sequence[Layer]) -> None:
    """Weights and biases as initializers of their own: a shared one is not changed for others."""
    names = Names(model)
    for layer in layers:
        values: list[Array] = [layer.weights] if layer.bias is None else [layer.weights, layer.bias]
        for index, value in enumerate(values, start=1):
            name = names.fresh(f"{layer.node.name}_{'weight' if index == 1 else 'bias'}_even")
            tensor = np.ascontiguousarray(value, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(tensor, name))
            layer.node.input[index] = name
    drop_unread(model.graph)


def _to_relu(model: onnx.ModelProto, clips: frozenset[str]) -> None:
    nodes = [
        onnx.helper.make_node("Relu", node.input[:1], node.output, name=node.name)
        if node.name in clips
        else node
        for node in model.graph.node
    ]
    replace_nodes(model.graph, nodes)
