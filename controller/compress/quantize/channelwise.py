"""Steps that scale and shift every channel by constants, and the layers that read them alone.

A factor for each channel can move from such a step into the layers behind it, as it does between
two layers (`graph.seams`): normalizations end in one, and what exporters write as a Mul and an Add
is one. A ReLU in between lets positive factors through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from controller.compress.graph.model import Array, Names, View, attributes, shapes
from controller.compress.graph.seams import Double

Constant = tuple[onnx.NodeProto, int]  # a node, and which of its inputs is divided


@dataclass(frozen=True, slots=True, kw_only=True)
class Channelwise:
    """One step: constants of each channel, the tensor that is read, and who reads it."""

    tensor: str
    axis: int  # of the channels in the tensor: 1, or -1 before products
    constants: tuple[Constant, ...]
    layers: tuple[onnx.NodeProto, ...]

    def in_range(self, model: onnx.ModelProto) -> Double:
        """``max|W_j|`` of each channel over all layers."""
        view = View(model)
        each = []
        for layer in self.layers:
            value, at = _weights(layer, view)
            others = tuple(i for i in range(value.ndim) if i != at)
            each.append(np.abs(value).max(axis=others).astype(np.float64))
        return np.asarray(np.max(each, axis=0))

    def fold(self, model: onnx.ModelProto, factors: Double) -> None:
        """Divide the step's constants by the factors and multiply the layers' inputs."""
        view, names = View(model), Names(model)
        for node, at in self.constants:
            value = view.constant(node.input[at])
            if value is not None:
                replace(model, names, node, at, value / factors.reshape(value.shape))
        for layer in self.layers:
            value, at = _weights(layer, view)
            spread = factors.reshape([-1 if i == at else 1 for i in range(value.ndim)])
            replace(model, names, layer, 1, value.astype(np.float64) * spread)


def steps(model: onnx.ModelProto) -> tuple[list[Channelwise], list[str]]:
    """Those that can be folded, and why others cannot."""
    view, known = View(model), shapes(model)
    found, refused = [], []
    for node in model.graph.node:
        constants, end = _constants(node, view)
        if not constants:
            continue
        relu = view.only_consumer(end)
        end = relu.output[0] if relu is not None and relu.op_type == "Relu" else end
        readers = view.consumers.get(end, [])
        axes = {_axis(reader, end, view) for reader in readers}
        others = [r for r in readers if _axis(r, end, view) is None]
        rank = len(known.get(end, ()))
        wanted = {_channels_at(constant, view, rank) for constant in constants}
        if not readers or end in view.outputs or others:
            what = f"{others[0].op_type} '{others[0].name}'" if others else "the model's output"
            if len(others) < len(readers):
                refused.append(f"{node.name} > …: {what} reads it, too")
        elif axes == wanted and len(axes) == 1:
            axis = next(iter(axes)) or 0
            constant, layers = tuple(constants), tuple(readers)
            found.append(Channelwise(tensor=end, axis=axis, constants=constant, layers=layers))
    return found, refused


def replace(
    model: onnx.ModelProto, names: Names, node: onnx.NodeProto, at: int, value: Array
) -> None:
    """Give an input of a node a new value, as an initializer of its own."""
    name = names.fresh(f"{node.name}_{at}_smooth")
    tensor = np.ascontiguousarray(value, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    node.input[at] = name


def _constants(node: onnx.NodeProto, view: View) -> tuple[list[Constant], str]:
    """The constants of each channel that shape a tensor, and that tensor."""
    if node.op_type in ("LayerNormalization", "BatchNormalization"):
        given = [i for i in (1, 2) if len(node.input) > i and node.input[i]]
        values = [view.constant(node.input[i]) for i in given]
        if any(value is None or value.ndim != 1 for value in values):
            return [], ""
        return [(node, i) for i in given], node.output[0]
    if node.op_type != "Mul" or _vector(node, view) is None:
        return [], ""
    found = [(node, _vector(node, view) or 0)]
    added = view.only_consumer(node.output[0])
    if added is None or added.op_type != "Add":
        return found, node.output[0]
    if _vector(added, view) is None:
        return [], ""  # factors would have to pass into what is added
    return [*found, (added, _vector(added, view) or 0)], added.output[0]


def _vector(node: onnx.NodeProto, view: View) -> int | None:
    """Which of two inputs is a constant with one axis that is longer than one."""
    for at in (1, 0):
        value = view.constant(node.input[at])
        if value is not None and value.size > 1 and value.size == max(value.shape):
            return at
    return None


def _channels_at(constant: Constant, view: View, rank: int) -> int | None:
    """The axis of the channels: 1, -1 where that is the last, None where it is neither."""
    node, at = constant
    if node.op_type == "BatchNormalization":
        return -1 if rank == 2 else 1
    if node.op_type == "LayerNormalization":
        return -1
    value = view.constant(node.input[at])
    if value is None:
        return None
    behind = value.ndim - 1 - int(np.argmax(value.shape))
    if behind == 0:
        return -1
    return 1 if rank - 1 - behind == 1 else None


def _axis(node: onnx.NodeProto, tensor: str, view: View) -> int | None:
    """Where a layer with constant weights has its input's channels; None for all else."""
    if node.input[0] != tensor or tensor in node.input[1:]:
        return None
    weights = view.constant(node.input[1]) if len(node.input) > 1 else None
    if weights is None:
        return None
    options = attributes(node)
    if node.op_type == "Conv":
        return 1 if options.get("group", 1) == 1 else None
    plain = not options.get("transA", 0) and options.get("alpha", 1.0) == 1.0
    return -1 if node.op_type in ("MatMul", "Gemm") and weights.ndim == 2 and plain else None


def _weights(layer: onnx.NodeProto, view: View) -> tuple[Array, int]:
    """Weights, and which of their axes holds the input channels."""
    value = view.constant(layer.input[1])
    if value is None:
        raise ValueError(f"the weights of '{layer.name}' are not constant")
    if layer.op_type == "Conv" or attributes(layer).get("transB", 0):
        return value, 1
    return value, 0
