"""Weights of an ONNX graph as matrices [outputs, K], and what their layers' inputs are like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import (
    Array,
    Inputs,
    View,
    attributes,
    run_batches,
    with_outputs,
)
from controller.compress.graph.subgraphs import outer_reads
from controller.compress.graph.windows import unfold

ROWS = 8_192  # of a layer's input
LISTED_FROM = 256  # values of a constant that is worth a line when it is left alone
_SEED = 20261124

Double = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution or product with constant weights; ``tensor`` is inside the model."""

    node: onnx.NodeProto
    tensor: onnx.TensorProto
    groups: int = 1  # of outputs, each with inputs of its own
    window: int = 1  # weights of one output that read the same input channel
    transposed: bool = False  # stored as [K, outputs]

    @property
    def name(self) -> str:
        """Of the node, or of what it makes where it has none."""
        return str(self.node.name or self.node.output[0])

    @property
    def alone(self) -> bool:
        """Whether each output reads one input channel, as in a depthwise convolution."""
        return self.groups > 1 and math.prod(self.tensor.dims[1:]) == self.window

    def matrix(self) -> Double:
        """Weights [outputs, K]; the K of a convolution is (input channel, window)."""
        values = numpy_helper.to_array(self.tensor).astype(np.float64)
        return values.T.copy() if self.transposed else values.reshape(len(values), -1)

    def write(self, matrix: Double) -> None:
        """Put weights [outputs, K] into the model."""
        old = numpy_helper.to_array(self.tensor)
        new = (matrix.T if self.transposed else matrix).reshape(old.shape).astype(old.dtype)
        named = numpy_helper.from_array(np.ascontiguousarray(new), self.tensor.name)
        self.tensor.CopyFrom(named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The layers in the order of the graph, and a line for each constant that is left alone."""

    layers: tuple[Layer, ...]
    left_alone: tuple[str, ...]


def find(model: onnx.ModelProto) -> Found:
    """Conv, Gemm and MatMul whose weights are a constant that nothing else reads.

    Weights may be initializers or lie in Constant nodes. Nodes inside subgraphs are left alone.
    """
    view = View(model)
    inner = frozenset().union(*map(outer_reads, model.graph.node))
    layers, notes = [], []
    for node in model.graph.node:
        layer, reason = _layer(node, view, inner)
        if layer is not None:
            layers.append(layer)
        elif reason:
            notes.append(f"left alone: {node.op_type} '{node.name or node.output[0]}': {reason}")
    return Found(layers=tuple(layers), left_alone=tuple(notes))


def grams(
    model: onnx.ModelProto, layers: Sequence[Layer], inputs: Inputs, *, batch: int = 64
) -> dict[str, list[Double]]:
    """``XᵀX / n`` [K, K] of each layer's inputs, one for each group, by the layer's name.

    X are up to `ROWS` rows: places of a convolution's input are drawn, seeded.
    """
    tensors = list(dict.fromkeys(layer.node.input[0] for layer in layers))
    sums: dict[str, list[Double]] = {}
    counts: dict[str, int] = {}
    chance = np.random.default_rng(_SEED)
    per_input = max(1, ROWS // max(len(inputs), 1))

    def add(names: list[str], values: list[Array]) -> None:
        by_name = dict(zip(names, values, strict=True))
        for layer in layers:
            if layer.node.input[0] not in by_name:
                continue
            shape = tuple(layer.tensor.dims)
            rows = unfold(layer.node, by_name[layer.node.input[0]], shape, per_input, chance)
            products = [(x.T @ x).astype(np.float64) for x in rows]
            known = sums.get(layer.name, [np.zeros_like(p) for p in products])
            sums[layer.name] = [a + b for a, b in zip(known, products, strict=True)]
            counts[layer.name] = counts.get(layer.name, 0) + len(rows[0])

    fed = [name for name in tensors if name in {item.name for item in model.graph.input}]
    asked = [name for name in tensors if name not in fed]
    for start in range(0, len(inputs) if fed else 0, batch):
        add(fed, [inputs[start : start + batch]] * len(fed))  # no run returns its own inputs
    if asked:
        run_batches(with_outputs(model, asked), inputs, add, batch=batch)
    return {name: [s / counts[name] for s in sums[name]] for name in sums}


def energies(layer: Layer, found: Sequence[Double]) -> Double:
    """Mean squares of what each weight is multiplied with: [outputs, K]."""
    share = layer.matrix().shape[0] // layer.groups
    return np.concatenate([np.tile(np.diag(gram), (share, 1)) for gram in found])


def _layer(node: onnx.NodeProto, view: View, inner: frozenset[str]) -> tuple[Layer | None, str]:
    """The node as a layer; else why its constants stay as they are, empty when it has none."""
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return None, "it holds a subgraph"
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        large = node.op_type != "Constant" and any(_is_large(view.constant(n)) for n in node.input)
        return None, "its weights are not pruned" if large else ""
    if all(view.constant(n) is None for n in node.input):
        return None, ""  # a product of two activations
    name, options = node.input[1], attributes(node)
    tensor = _tensor(name, view)
    if tensor is None or options.get("transA", 0):
        return None, "its second input is not its constant weights"
    if len(view.consumers[name]) > 1 or name in inner or name in view.outputs:
        return None, f"something else reads '{name}' too"
    if node.op_type == "Conv":
        groups, window = int(options.get("group", 1)), math.prod(tensor.dims[2:])
        return Layer(node=node, tensor=tensor, groups=groups, window=window), ""
    if len(tensor.dims) != 2:
        return None, f"its weights have {len(tensor.dims)} axes"
    return Layer(node=node, tensor=tensor, transposed=not options.get("transB", 0)), ""


def _tensor(name: str, view: View) -> onnx.TensorProto | None:
    """The tensor behind a constant, inside the model."""
    if name in view.initializers:
        return view.initializers[name]
    node = view.producers.get(name)
    if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
        return None
    return node.attribute[0].t


def _is_large(value: Array | None) -> bool:
    """Whether it looks like weights, and not like a shape, a scale or an axis."""
    if value is None or value.dtype.kind != "f":
        return False
    return value.ndim > 1 and value.size >= LISTED_FROM
