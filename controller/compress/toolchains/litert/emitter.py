"""Walks an ONNX graph, float or in Q/DQ form, and writes a ``.tflite`` file.

A node becomes an integer operator when its inputs come from ``DequantizeLinear`` and its result
goes to ``QuantizeLinear``, which then are written into the tensors' types. What is left of the
pairs becomes QUANTIZE and DEQUANTIZE: at the file's input and output, and around float islands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.compress.graph.model import View, attributes, model_input, shapes
from controller.compress.toolchains.litert import layout
from controller.compress.toolchains.litert.flat import FlatModel, Quantization
from controller.errors import FitError

FUSING = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "Sub", "MaxPool", "AveragePool"})
SAME_SCALE = frozenset(
    {
        "MaxPool",
        "AveragePool",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Concat",
        "Pad",
    }
)
INTEGER = SAME_SCALE | {
    "Conv",
    "Gemm",
    "MatMul",
    "Gather",
    "GlobalAveragePool",
    "Add",
    "Mul",
    "Sub",
    "Sigmoid",
    "Relu",
    "Clip",
    "LeakyRelu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A constant: its values as stored, and how to read them when they are integers."""

    values: NDArray[Any]
    quantization: Quantization | None

    @property
    def real(self) -> NDArray[np.float32]:
        """The values as floats."""
        if self.quantization is None:
            return self.values.astype(np.float32)
        q = self.quantization
        along = [-1 if i == q.axis else 1 for i in range(self.values.ndim)]
        many = len(q.scale) > 1
        scale = q.scale.reshape(along) if many else q.scale[0]
        zero = q.zero_point.reshape(along) if many else q.zero_point[0]
        return ((self.values.astype(np.float32) - zero) * scale).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node on its way into the file."""

    node: onnx.NodeProto
    values: Mapping[str, Any]  # attributes
    integer: bool
    activation: str  # fused: "NONE", "RELU", "RELU6"
    target: str  # tensor of the source that the operator's result is
    source_shape: tuple[int, ...]  # of that tensor, in the source's layout
    quantization: Quantization | None

    @property
    def version_2(self) -> int:
        """Operator version of the many operators that took int8 in their second one."""
        return 2 if self.integer else 1


class Emitter:
    """State of one conversion."""

    def __init__(self, model: onnx.ModelProto) -> None:
        source = model_input(model)
        dims = source.type.tensor_type.shape.dim
        self.view = View(model)
        self.shapes = shapes(model)
        self.free_batch = bool(dims) and not dims[0].HasField("dim_value")
        self.flat = FlatModel(free_batch=self.free_batch)
        self.done: set[str] = set()  # nodes that became part of another's operator
        self._made: dict[str, int] = {}
        shape = layout.file_shape(self.shape(source.name))
        kind = str(
            np.dtype(onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type))
        )
        self._made[source.name] = self.flat.activation(source.name, shape, dtype=kind)
        self.inputs = {source.name: self._made[source.name]}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor in the source, at batch 1.

        Raises:
            FitError: it cannot be inferred.
        """
        if name not in self.shapes:
            raise FitError(
                f"no LiteRT variant: the shape of '{name}' cannot be inferred; export the model"
                " with fixed sizes"
            )
        return self.shapes[name]

    def step(self, node: onnx.NodeProto) -> Step:
        """Decide what a node becomes, and claim the nodes that it takes along."""
        activation, end = self._fused(node)
        writer = self.view.only_consumer(end)
        integer = (
            node.op_type in INTEGER
            and writer is not None
            and writer.op_type == "QuantizeLinear"
            and self._reads_integers(node)
        )
        quantization = self.quantization(writer) if integer and writer is not None else None
        if quantization is not None and node.op_type in SAME_SCALE:
            integer = self._same_scale(node, quantization)
        if integer and writer is not None:
            self.done.add(writer.name)
        return Step(
            node=node,
            values=attributes(node),
            integer=integer,
            activation=activation,
            target=writer.output[0] if integer and writer is not None else end,
            source_shape=self.shape(end),
            quantization=quantization if integer else None,
        )

    def result(self, step: Step) -> int:
        """The tensor that a step fills."""
        shape = layout.file_shape(step.source_shape)
        index = self.flat.activation(step.target, shape, step.quantization)
        self._made[step.target] = index
        return index

    def operand(self, step: Step, position: int) -> int:
        """An input of a step's node: an activation, or a constant to broadcast."""
        name = step.node.input[position]
        constant = self.constant(name)
        if constant is None:
            return self._integer(name) if step.integer else self.real(name)
        rank = len(step.source_shape)
        values = constant.values if step.integer else constant.real
        return self.flat.constant(
            name,
            layout.operand(values, rank),
            constant.quantization if step.integer else None,
        )

    def real(self, name: str) -> int:
        """The float tensor of a name, dequantized here when it is not there yet."""
        if name in self._made:
            return self._made[name]
        reader = self.view.producers.get(name)
        if reader is None or reader.op_type != "DequantizeLinear":
            raise FitError(f"no LiteRT variant: nothing makes the tensor '{name}'")
        source = self._made[reader.input[0]]
        index = self.flat.activation(name, self.flat.info(source).shape)
        self.flat.operator("DEQUANTIZE", 2, [source], index, ("DequantizeOptions", {}))
        self._made[name] = index
        return index

    def quantize(self, node: onnx.NodeProto) -> None:
        """A ``QuantizeLinear`` that no operator took along."""
        before = self.view.producers.get(node.input[0])
        again = before is not None and before.op_type == "DequantizeLinear"
        source = self._integer(node.input[0]) if again else self.real(node.input[0])
        shape = self.flat.info(source).shape
        index = self.flat.activation(node.output[0], shape, self.quantization(node))
        self._made[node.output[0]] = index
        options: tuple[str, dict[str, Any]] = ("QuantizeOptions", {})
        self.flat.operator("QUANTIZE", 2 if again else 1, [source], index, options)

    def constant(self, name: str) -> Stored | None:
        """A constant, or one behind a ``DequantizeLinear``; None for an activation."""
        plain = self.view.constant(name)
        if plain is not None:
            return Stored(values=plain, quantization=None)
        reader = self.view.producers.get(name)
        if reader is None or reader.op_type != "DequantizeLinear":
            return None
        stored = self.view.constant(reader.input[0])
        if stored is None:
            return None
        return Stored(values=stored, quantization=self.quantization(reader))

    def quantization(self, node: onnx.NodeProto) -> Quantization:
        """Scale and zero point of a ``QuantizeLinear`` or ``DequantizeLinear``.

        Raises:
            FitError: they are computed at run time, or of a type that LiteRT has not.
        """
        scale = self.view.constant(node.input[1])
        zero = self.view.constant(node.input[2]) if len(node.input) > 2 else None
        if scale is None:
            raise FitError(f"no LiteRT variant: the scale of '{node.name}' is no constant")
        if zero is None or zero.dtype.name not in ("int8", "int32"):
            raise FitError(
                f"no LiteRT variant: '{node.name}' quantizes to unsigned integers; "
                "quantize with the scheme s8s8"
            )
        scales = np.atleast_1d(scale).astype(np.float32)
        zeros = np.broadcast_to(np.atleast_1d(zero), scales.shape).astype(np.int64)
        axis = int(attributes(node).get("axis", 0)) if len(scales) > 1 else 0
        return Quantization(scale=scales, zero_point=zeros, axis=axis)

    def _fused(self, node: onnx.NodeProto) -> tuple[str, str]:
        """The activation that follows and belongs to a node, and the tensor behind it."""
        follower = self.view.only_consumer(node.output[0])
        if node.op_type in FUSING and follower is not None:
            activation = self.activation(follower)
            if activation:
                self.done.add(follower.name)
                return activation, follower.output[0]
        return "NONE", node.output[0]

    def activation(self, node: onnx.NodeProto) -> str:
        """``RELU`` or ``RELU6`` for a node that is one; empty otherwise."""
        if node.op_type == "Relu":
            return "RELU"
        if node.op_type != "Clip":
            return ""
        bounds = [attributes(node).get("min"), attributes(node).get("max")]
        for position, name in enumerate(node.input[1:3]):
            value = self.view.constant(name) if name else None
            bounds[position] = None if value is None else float(value)
        low, high = bounds
        if low != 0.0:
            return ""
        return {6.0: "RELU6", None: "RELU"}.get(high, "")

    def _reads_integers(self, node: onnx.NodeProto) -> bool:
        heavy = node.op_type in ("Conv", "Gemm", "MatMul")
        readers = [self.view.producers.get(name) for name in node.input if name]
        if heavy or node.op_type in ("Add", "Mul", "Sub", "Concat"):
            return all(r is not None and r.op_type == "DequantizeLinear" for r in readers)
        return readers[0] is not None and readers[0].op_type == "DequantizeLinear"

    def _same_scale(self, node: onnx.NodeProto, wanted: Quantization) -> bool:
        count = len(node.input) if node.op_type == "Concat" else 1
        readers = [self.view.producers[name] for name in node.input[:count]]
        return all(self.quantization(reader).same_as(wanted) for reader in readers)

    def _integer(self, name: str) -> int:
        return self._made[self.view.producers[name].input[0]]

    def finish(self, outputs: Sequence[str]) -> bytes:
        """Write the file."""
        made = {name: self.real(name) for name in outputs}
        return self.flat.pack(
            inputs=self.inputs,
            outputs=made,
            description="Fitment",
            min_runtime="1.15.0",
        )
