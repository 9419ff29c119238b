"""Rows as images of height 1: for runtimes whose windows have two axes.

``Conv`` and pooling over [N, C, L] become the same over [N, C, 1, L]. Activations, sums and joins
of what is an image already stay so, so that a chain of layers is unfolded once and folded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from controller.compress.graph.model import Names, View, attributes, shapes
from controller.compress.graph.normalize import normalized, replace_nodes

WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool"})
FOLLOWING = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Add", "Mul", "Sub"})
HEIGHT = 2  # the new axis


def as_images(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The same function, and how many layers changed. Inputs and outputs keep their shapes."""
    result = normalized(model)
    work = _Work(result)
    for node in list(result.graph.node):
        work.visit(node)
    for item in result.graph.output:
        work.flat(item.name)
    replace_nodes(result.graph, work.nodes)
    if work.changed:
        del result.graph.value_info[:]
        result.graph.initializer.append(
            numpy_helper.from_array(np.array([HEIGHT], np.int64), work.axes)
        )
    return result, work.changed


class _Work:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.changed = 0
        self._model, self._view, self._names = model, View(model), Names(model)
        self._shapes = shapes(model)
        self._images: dict[str, str] = {}  # tensor of rank 3 -> the same as an image
        self._folded: set[str] = set()  # made as images, and folded since
        self.axes = self._names.fresh("height_axis")

    def visit(self, node: onnx.NodeProto) -> None:
        """Write a node again."""
        row = len(self._shapes.get(node.input[0], ())) == 3 if node.input else False
        if row and node.op_type in WINDOWED and self._known(node):
            self._layer(node)
        elif row and self._follows(node):
            self._again(node, [self._images.get(name, name) for name in node.input])
        else:
            for name in node.input:
                self.flat(name)
            self.nodes.append(node)

    def flat(self, name: str) -> None:
        """Make sure that a tensor is there in its own rank."""
        if name in self._images and name not in self._folded:
            self._reshape("Squeeze", self._images[name], name)

    def _known(self, node: onnx.NodeProto) -> bool:
        constant = node.op_type != "Conv" or self._view.constant(node.input[1]) is not None
        return constant and not any(node.output[1:])

    def _follows(self, node: onnx.NodeProto) -> bool:
        moving = [n for n in node.input if n and self._view.constant(n) is None]
        joined = node.op_type == "Concat" and attributes(node).get("axis") == 1
        whole = len(moving) == len([n for n in node.input if n]) or node.op_type == "Clip"
        known = node.op_type in FOLLOWING or joined
        return known and whole and all(name in self._images for name in moving)

    def _layer(self, node: onnx.NodeProto) -> None:
        self.changed += 1
        inputs = [self._image(node.input[0]), *node.input[1:]]
        weights = self._view.constant(node.input[1]) if node.op_type == "Conv" else None
        if weights is not None:
            inputs[1] = self._names.fresh(f"{node.input[1]}_image")
            stored = np.expand_dims(weights, HEIGHT)
            self._model.graph.initializer.append(numpy_helper.from_array(stored, inputs[1]))
        made = self._again(node, inputs)
        wide = [_widened(name, value) for name, value in attributes(node).items()]
        del made.attribute[:]
        made.attribute.extend(wide)

    def _again(self, node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
        made = onnx.NodeProto.FromString(node.SerializeToString())
        del made.input[:]
        made.input.extend(inputs)
        made.output[0] = self._images[node.output[0]] = self._names.fresh(f"{node.output[0]}_image")
        self.nodes.append(made)
        return made

    def _image(self, name: str) -> str:
        if name not in self._images:
            self._images[name] = self._names.fresh(f"{name}_image")
            self._reshape("Unsqueeze", name, self._images[name])
        return self._images[name]

    def _reshape(self, kind: str, source: str, target: str) -> None:
        self._folded.add(source if kind == "Unsqueeze" else target)
        label = self._names.fresh(f"{target}_{kind}")
        self.nodes.append(helper.make_node(kind, [source, self.axes], [target], name=label))


def _widened(name: str, value: Any) -> onnx.AttributeProto:
    """An attribute of a window over one axis, for two."""
    if name == "pads":
        value = [0, value[0], 0, value[1]]
    elif name in ("kernel_shape", "strides", "dilations"):
        value = [1, value[0]]
    return helper.make_attribute(name, value)
