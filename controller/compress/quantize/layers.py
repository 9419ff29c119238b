"""Quantized layers in a Q/DQ model: what is behind their nodes, and writing other weights there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import Array, View, attributes
from controller.compress.graph.normalize import normalized

Double = NDArray[np.float64]


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

    @property
    def shifts(self) -> bool:
        """Whether all scales are powers of two, so that new ones must be."""
        scales = np.append(numpy_helper.to_array(self.weight_scale), np.float32(self.input_scale))
        return bool((np.frexp(scales)[0] == 0.5).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """New weights of one layer: integer levels in the file's shape, a scale for each output."""

    levels: NDArray[np.int8]
    scales: Double
    sqnr_db: float  # of the layer's own outputs, weights alone
    moved: Double | float = 0.0  # what its bias must give back: E[X Wᵀ] − E[X̂ Ŵᵀ] [out]


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


def install(layer: Layer, made: Rounded) -> None:
    """Write new weights into a layer's own model, and its bias in the units that they ask for."""
    bias = numpy_helper.to_array(layer.bias) * numpy_helper.to_array(layer.bias_scale)
    bias = bias + made.moved
    bias_scale = (layer.input_scale * made.scales).astype(np.float32)
    limits = np.iinfo(np.int32)
    stored = np.clip(np.rint(bias / bias_scale), limits.min, limits.max).astype(np.int32)
    _put(layer.weights, made.levels)
    _put(layer.weight_scale, made.scales.astype(np.float32))
    _put(layer.bias, stored)
    _put(layer.bias_scale, bias_scale)


def as_matrix(weights: Array, transposed: bool) -> Double:
    """Weights as [out, K]."""
    values = weights.astype(np.float64)
    return values.T.copy() if transposed else values.reshape(len(values), -1)


def from_matrix(matrix: Double, shape: tuple[int, ...], transposed: bool) -> Double:
    """The same in the file's shape."""
    return matrix.T if transposed else matrix.reshape(shape)


def _put(tensor: onnx.TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
