"""SmoothQuant: part of the activations' range moves into the weights; the function stays.

Xiao et al., 2022, arXiv:2211.10438. A layer computes ``Y = (X · diag(s)⁻¹) · (diag(s) · W)`` for
any positive ``s``. With

    s_j = max|X_j|^α / max|W_j|^(1-α)

channel ``j`` of its input ranges to ``max|X_j|^(1-α) · max|W_j|^(1-α)``, and the weights that meet
it to ``max|X_j|^α · max|W_j|^α``: at ``α = 1/2`` both range alike. An activation has one scale for
all of its channels, weights have one for each output.

``diag(s)⁻¹`` is folded into what wrote ``X``, so nothing is computed at run time:

- a step of its own (`channelwise`): scale and bias of a layer or batch normalization, or constants
  of a Mul and the Add behind it, with or without a ReLU, which layers alone read;
- a *seam* (`graph.seams`): the rows of the layers before it, through ReLU, pooling and sums.

``max|X_j|`` is over calibration inputs, ``max|W_j|`` over all layers that read the channel, both of
the model as it came. No label is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from controller.compress.graph import model as graph_model
from controller.compress.graph.model import Array, Inputs, Names
from controller.compress.graph.normalize import normalized
from controller.compress.graph.seams import Double, Layer, Seam, layers_of, seams_of
from controller.compress.graph.subgraphs import drop_unread
from controller.compress.quantize import channelwise

ALPHA = 0.5
BATCH = 64
NEGLIGIBLE = 1e-5  # of the largest of its kind; what is less counts as that much, or as dead
LIMIT = 1e4  # of a factor; beyond it biases would blow up


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """The model, and what was done to which tensor."""

    model: onnx.ModelProto
    factors: Mapping[str, Double]  # tensor that layers read -> s of each channel
    left_alone: tuple[str, ...]  # "norm1 > fc1: …"


def factors(inputs: Double, weights: Double, alpha: float = ALPHA) -> Double:
    """``s`` for each channel; a channel that no input reached has the mean of the others.

    Args:
        inputs: ``max|X_j|`` [channels].
        weights: ``max|W_j|`` [channels].
        alpha: share of the range that moves, 0…1.
    """
    alive = inputs > NEGLIGIBLE * inputs.max(initial=0.0)
    most = weights.max(initial=0.0)
    if not alive.any() or not most > 0:
        return np.ones_like(inputs)
    met = np.log(np.maximum(weights, NEGLIGIBLE * most))
    logs = alpha * np.log(np.where(alive, inputs, 1.0)) - (1 - alpha) * met
    logs = np.where(alive, logs, logs[alive].mean())
    return np.asarray(np.clip(np.exp(logs), 1 / LIMIT, LIMIT))


def smooth(model: onnx.ModelProto, inputs: Inputs, *, alpha: float = ALPHA) -> Smoothed:
    """A copy (in normalized form) that answers the same with evener activations.

    Args:
        model: float model, batch normalizations folded.
        inputs: real inputs for the ranges of activations.
        alpha: share of the range that moves into the weights.
    """
    result = normalized(model)
    seams = [seam for seam in seams_of(result, layers_of(result)) if seam.readers]
    left = [f"{seam.name}: {_reason(seam)}" for seam in seams if _reason(seam)]
    usable = [seam for seam in seams if not _reason(seam)]
    steps, refused = channelwise.steps(result)
    tensors = {layer.node.input[0]: 1 for seam in usable for layer in seam.readers}
    seen = _largest(result, inputs, {**tensors, **{s.tensor: s.axis for s in steps}})
    by_seam = [_of_seam(seam, seen, alpha) for seam in usable]
    by_step = [factors(seen[s.tensor], s.in_range(result), alpha) for s in steps]
    _fold_seams(result, usable, by_seam)
    for step, moved in zip(steps, by_step, strict=True):
        step.fold(result, moved)
    drop_unread(result.graph)
    onnx.checker.check_model(result)
    found = {seam.readers[0].node.input[0]: s for seam, s in zip(usable, by_seam, strict=True)}
    found |= {step.tensor: s for step, s in zip(steps, by_step, strict=True)}
    return Smoothed(model=result, factors=found, left_alone=(*left, *refused))


def _reason(seam: Seam) -> str:
    """Why a seam cannot be scaled, or nothing."""
    if seam.reasons:
        return seam.reasons[0]
    return f"Clip '{seam.clips[0].name}' has an upper bound" if seam.clips else ""


def _of_seam(seam: Seam, seen: Mapping[str, Double], alpha: float) -> Double:
    """Its factors; behind a Flatten a channel has several entries, of which the largest counts."""
    channels = seam.writers[0].channels
    reached = [
        seen[layer.node.input[0]].reshape(channels, -1).max(axis=1) for layer in seam.readers
    ]
    met = [layer.in_range(channels) for layer in seam.readers]
    return factors(np.max(reached, axis=0), np.max(met, axis=0), alpha)


def _largest(model: onnx.ModelProto, inputs: Inputs, axes: Mapping[str, int]) -> dict[str, Double]:
    """``max|X_j|`` of tensors along their channel axes, over all inputs."""
    found: dict[str, Double] = {}

    def each(names: list[str], values: list[Array]) -> None:
        for name, value in zip(names, values, strict=True):
            axis = axes[name] % value.ndim
            others = tuple(i for i in range(value.ndim) if i != axis)
            most = np.abs(value).max(axis=others).astype(np.float64)
            found[name] = np.maximum(found.get(name, most), most)

    if axes:
        tapped = graph_model.with_outputs(model, list(axes))
        graph_model.run_batches(tapped, inputs, each, batch=BATCH)
    return found


def _fold_seams(model: onnx.ModelProto, seams: Sequence[Seam], moved: Iterable[Double]) -> None:
    touched: dict[str, Layer] = {}
    for seam, factor in zip(seams, moved, strict=True):
        for layer in seam.writers:
            layer.divide_outputs(factor)
        for layer in seam.readers:
            layer.multiply_inputs(factor)
        touched |= {layer.node.name: layer for layer in (*seam.writers, *seam.readers)}
    names = Names(model)
    for layer in touched.values():
        channelwise.replace(model, names, layer.node, 1, layer.weights)
        if layer.bias is not None:
            channelwise.replace(model, names, layer.node, 2, layer.bias)
