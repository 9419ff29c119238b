"""Small ONNX networks with seeded weights, for the tests of the ONNX side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Net:
    """Builds a network node by node; tensors are named by their node."""

    def __init__(self, shape: Sequence[int], *, seed: int = 0, batch: int | None = None) -> None:
        self.shape = tuple(shape)
        self._batch = "batch" if batch is None else batch
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def weights(self, name: str, shape: Sequence[int], scale: float | None = None) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        spread = scale if scale is not None else (2.0 / fan_in) ** 0.5
        return self.constant(name, self._random.normal(0, spread, shape).astype(np.float32))

    def constant(self, name: str, values: Any) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(self, source: str, name: str, cin: int, cout: int, size: int = 3, **more: Any) -> str:
        groups = more.get("group", 1)
        weights = self.weights(f"{name}_w", (cout, cin // groups, size, size))
        bias = self.weights(f"{name}_b", (cout,), 0.1)
        if "auto_pad" not in more:
            more.setdefault("pads", [size // 2] * 4)
        return self.op("Conv", [source, weights, bias], name, kernel_shape=[size, size], **more)

    def gemm(self, source: str, name: str, cin: int, cout: int) -> str:
        weights = self.weights(f"{name}_w", (cout, cin))
        bias = self.weights(f"{name}_b", (cout,), 0.1)
        return self.op("Gemm", [source, weights, bias], name, transB=1)

    def model(self, output: str, rank: int = 2, opset: int = 17) -> onnx.ModelProto:
        dims = [self._batch, *self.shape]
        source = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, dims)
        unknown = [self._batch, *([None] * (rank - 1))]
        target = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, unknown)
        graph = helper.make_graph(self._nodes, "net", [source], [target], self._initializers)
        model: onnx.ModelProto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        onnx.checker.check_model(model)
        return model


def chain() -> onnx.ModelProto:
    """Conv-ReLU three times with max-pooling, spatial mean, Gemm; [N, 3, 12, 12] to [N, 5]."""
    net = Net((3, 12, 12))
    x = net.op("Relu", [net.conv("input", "conv0", 3, 8)], "relu0")
    x = net.op("Relu", [net.conv(x, "conv1", 8, 8)], "relu1")
    x = net.op("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", [net.conv(x, "conv2", 8, 16)], "relu2")
    x = net.op("ReduceMean", [x], "mean", axes=[2, 3], keepdims=0)
    return net.model(net.gemm(x, "gemm", 16, 5))


def residual() -> onnx.ModelProto:
    """Stride, depthwise, ReLU6, Add, Concat, average pooling, Flatten of an image, Softmax."""
    net = Net((4, 13, 13), seed=1)
    x = net.op("Relu", [net.conv("input", "stem", 4, 8, strides=[2, 2])], "stem_relu")
    y = net.conv(x, "deep", 8, 8, group=8)
    low, high = net.constant("low", np.float32(0)), net.constant("high", np.float32(6))
    y = net.op("Clip", [y, low, high], "deep_relu6")
    y = net.conv(y, "point", 8, 8, 1)
    x = net.op("Relu", [net.op("Add", [x, y], "add")], "add_relu")
    z = net.op("Relu", [net.conv(x, "side", 8, 4)], "side_relu")
    x = net.op("Concat", [x, z], "concat", axis=1)
    x = net.op("AveragePool", [x], "average", kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", [x], "flat", axis=1)
    return net.model(net.op("Softmax", [net.gemm(x, "gemm", 12 * 9, 6)], "softmax", axis=1))


def images(shape: Sequence[int], count: int = 24, seed: int = 9) -> NDArray[np.float32]:
    """Smooth non-negative images [count, *shape], which is what the networks' inputs are like."""
    random = np.random.default_rng(seed)
    values = np.maximum(random.normal(0.3, 0.4, (count, *shape)), 0.0)
    return values.astype(np.float32)
