"""Seams: sets of tensors whose channels can be scaled together without changing the function.

Factors pass a ReLU, pooling, a reshape that keeps channels in order, a clip from zero up, and a sum
of two tensors, which ties both to one seam. Layers write a seam or read it; whatever else touches
it is a reason to leave it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.compress.graph.model import View, attributes, shapes
from controller.compress.graph.subgraphs import outer_reads

_THROUGH = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout"}
)
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})

Double = NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Layer:
    """Weights of one layer in double precision."""

    node: onnx.NodeProto
    weights: Double
    bias: Double | None
    groups: int
    outputs_last: bool  # of a product whose weights are [K, out]

    @property
    def channels(self) -> int:
        return int(self.weights.shape[1 if self.outputs_last else 0])

    def written(self) -> Double:
        """Weights as [channel out, rest]; a view."""
        matrix = self.weights.T if self.outputs_last else self.weights
        return matrix if self.outputs_last else matrix.reshape(len(matrix), -1)

    def out_range(self) -> Double:
        """Largest absolute weight of each output channel."""
        return np.asarray(np.abs(self.written()).max(axis=1))

    def in_range(self, channels: int) -> Double:
        """Largest absolute weight that each of ``channels`` input channels meets."""
        return np.asarray(np.abs(self._read(channels)).max(axis=(1, 3)).reshape(-1))

    def divide_outputs(self, factors: Double) -> None:
        spread = factors if self.outputs_last else factors.reshape(-1, *[1] * self._inner)
        self.weights = self.weights / spread
        if self.bias is not None:
            self.bias = self.bias / factors

    def multiply_inputs(self, factors: Double) -> None:
        scaled = self._read(len(factors)) * factors.reshape(self.groups, 1, -1, 1)
        if self.outputs_last:
            self.weights = np.moveaxis(scaled, 1, 3).reshape(self.weights.shape)
        else:
            self.weights = scaled.reshape(self.weights.shape)

    def fits(self, channels: int) -> bool:
        """Whether its inputs are ``channels`` channels, or some of each behind a Flatten."""
        if self.node.op_type == "Conv":
            return int(self.weights.shape[1]) * self.groups == channels
        return int(self.weights.shape[0 if self.outputs_last else 1]) % channels == 0

    @property
    def _inner(self) -> int:
        return self.weights.ndim - 1

    def _read(self, channels: int) -> Double:
        """Weights as [group, out in the group, channel in the group, rest].

        A product behind a Flatten has several inputs a channel: they are the rest.
        """
        share = channels // self.groups
        if self.outputs_last:
            return np.moveaxis(self.weights.reshape(1, share, -1, self.channels), 3, 1)
        return self.weights.reshape(self.groups, self.channels // self.groups, share, -1)


@dataclass(slots=True, kw_only=True)
class Seam:
    """Tensors that share factors, and the layers on both sides."""

    writers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    clips: list[onnx.NodeProto] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # why it cannot be touched

    @property
    def name(self) -> str:
        sides = ([layer.node.name for layer in side] for side in (self.writers, self.readers))
        return " > ".join(", ".join(side) or "…" for side in sides)


def layers_of(model: onnx.ModelProto) -> dict[str, Layer]:
    """Layers whose weights and bias are constant, by the names of their nodes."""
    view, known = View(model), shapes(model)
    found = {}
    for node in model.graph.node:
        weights = view.constant(node.input[1]) if node.op_type in _LAYERS else None
        if weights is None or weights.dtype != np.float32:
            continue
        options = attributes(node)
        flat = node.op_type != "Conv"
        if flat and (weights.ndim != 2 or len(known.get(node.input[0], ())) != 2):
            continue  # channels are not the second axis there
        plain = {options.get("alpha", 1.0), options.get("beta", 1.0)} == {1.0}
        if options.get("transA", 0) or not plain:
            continue
        outputs_last = flat and not options.get("transB", 0)
        channels = weights.shape[1 if outputs_last else 0]
        named = node.input[2] if len(node.input) > 2 else ""
        bias = view.constant(named) if named else None
        if named and (bias is None or bias.size not in (1, channels)):
            continue
        found[node.name] = Layer(
            node=node,
            weights=weights.astype(np.float64),
            bias=None if bias is None else np.resize(bias.astype(np.float64).ravel(), channels),
            groups=int(options.get("group", 1)),
            outputs_last=outputs_last,
        )
    return found


def seams_of(model: onnx.ModelProto, layers: Mapping[str, Layer]) -> list[Seam]:
    """Every seam that some layer writes, with the reasons why it cannot be touched."""
    view, known = View(model), shapes(model)
    joined = _joined(model, view, known)
    found: dict[str, Seam] = {}

    def seam(name: str) -> Seam:
        return found.setdefault(joined.get(name, name), Seam())

    for node in model.graph.node:
        layer = layers.get(node.name)
        opaque = [] if _passes(node, view, known) else [f"{_spoken(node)} lets no factor through"]
        for name in node.output:
            _put(seam(name).writers, seam(name).reasons, layer, opaque)
        for index, name in enumerate(node.input):
            _put(seam(name).readers, seam(name).reasons, layer if index == 0 else None, opaque)
        if node.op_type == "Clip" and not opaque:
            seam(node.output[0]).clips.append(node)
    for name, reason in _fixed(model).items():
        seam(name).reasons.append(reason)
    written = [item for item in found.values() if item.writers]
    for item in written:
        item.reasons += _misfits(item)
    return written


def _put(side: list[Layer], reasons: list[str], layer: Layer | None, opaque: list[str]) -> None:
    if layer is not None:
        side.append(layer)
    else:
        reasons += opaque


def _misfits(seam: Seam) -> list[str]:
    channels = {layer.channels for layer in seam.writers}
    if not seam.readers:
        return ["no layer reads it"]
    if len(channels) > 1 or not all(layer.fits(max(channels)) for layer in seam.readers):
        return ["its layers differ in channels"]
    return []


def _fixed(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that cannot change: inputs and outputs, and what subgraphs read by name."""
    found = {item.name: "it holds an input of the model" for item in model.graph.input}
    found |= {item.name: "it is an output of the model" for item in model.graph.output}
    for node in model.graph.node:
        for name in outer_reads(node):
            found[name] = f"a subgraph of {_spoken(node)} reads it"
    return found


def _joined(
    model: onnx.ModelProto, view: View, known: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Tensor -> the representative of its seam, for tensors joined by what factors pass."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    for node in model.graph.node:
        if _passes(node, view, known):
            moving = [n for n in node.input if n and view.constant(n) is None]
            for name in (*moving, node.output[0]):
                parent[root(name)] = root(node.output[0])
    return {name: root(name) for node in model.graph.node for name in (*node.input, *node.output)}


def _passes(node: onnx.NodeProto, view: View, known: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether ``f(x / s) = f(x) / s`` for positive ``s`` of each channel."""
    if any(name in view.outputs for name in node.output[1:]):
        return False
    if node.op_type in _THROUGH:
        return len(node.output) == 1 or not any(n in view.consumers for n in node.output[1:])
    source, target = known.get(node.input[0] if node.input else ""), known.get(node.output[0])
    if node.op_type == "Add":
        whole = all(view.constant(name) is None for name in node.input)
        return whole and source is not None and source == known.get(node.input[1])
    if node.op_type in ("Flatten", "Reshape") and source and target:
        return len(target) == 2 and target[0] == source[0] and len(source) > 1
    if node.op_type == "Clip":
        low = view.constant(node.input[1]) if len(node.input) > 1 else None
        return low is not None and low.size == 1 and float(low.reshape(())) == 0.0
    return False


def _spoken(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name}'"
