"""The ONNX operators that training knows, as torch functions of (node, inputs).

Inputs are tensors in the order of the node's; missing ones are None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import torch
from torch.nn import functional

from controller.compress.graph.model import attributes
from controller.errors import FitError

Tensor: TypeAlias = torch.Tensor
Operator: TypeAlias = Callable[[onnx.NodeProto, Sequence[Any]], Tensor]


def _padded(node: onnx.NodeProto, x: Tensor, kernel: Sequence[int], fill: float) -> Tensor:
    """``x`` with the node's own padding around its spatial axes."""
    options = attributes(node)
    if options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise FitError(f"{node.op_type} '{node.name}' leaves its padding to the runtime")
    pads = options.get("pads") or [0] * (2 * len(kernel))
    around = [pads[i + side] for i in reversed(range(len(kernel))) for side in (0, len(kernel))]
    return functional.pad(x, around, value=fill) if any(around) else x


def _conv(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    x, weights, bias = (*inputs, None)[:3]
    rank = weights.ndim - 2
    options = attributes(node)
    convolve: Any = {1: functional.conv1d, 2: functional.conv2d}.get(rank)
    if convolve is None:
        raise FitError(f"Conv '{node.name}' has {rank} spatial axes; one or two can be trained")
    found: Tensor = convolve(
        _padded(node, x, weights.shape[2:], 0.0),
        weights,
        bias,
        stride=tuple(options.get("strides") or [1] * rank),
        dilation=tuple(options.get("dilations") or [1] * rank),
        groups=int(options.get("group", 1)),
    )
    return found


def _gemm(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    x, weights, bias = (*inputs, None)[:3]
    product: Tensor = x @ (weights.T if attributes(node).get("transB", 0) else weights)
    return product if bias is None else product + bias


def _pool(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    options = attributes(node)
    kernel = tuple(options["kernel_shape"])
    largest = node.op_type == "MaxPool"
    unusual = options.get("ceil_mode", 0) or any(d != 1 for d in options.get("dilations") or [])
    if len(kernel) != 2 or unusual or (not largest and any(options.get("pads") or [])):
        raise FitError(f"{node.op_type} '{node.name}' is of a kind that cannot be trained")
    strides = tuple(options.get("strides") or [1, 1])
    x = _padded(node, inputs[0], kernel, float("-inf"))
    if largest:
        return functional.max_pool2d(x, kernel, strides)
    return functional.avg_pool2d(x, kernel, strides)


def _clip(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    options = attributes(node)
    low = options.get("min") if low is None else float(low)
    high = options.get("max") if high is None else float(high)
    return torch.clamp(x, low, high)


def _flatten(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    if attributes(node).get("axis", 1) != 1:
        raise FitError(f"Flatten '{node.name}' is not along the batch")
    flat: Tensor = inputs[0].flatten(1)
    return flat


def _reshape(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    del node
    x, shape = inputs
    wanted = [int(n) if n else x.shape[i] for i, n in enumerate(shape)]
    return torch.reshape(x, [x.shape[0], *wanted[1:]] if wanted[0] in (1, -1) else wanted)


def _concat(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    return torch.cat(list(inputs), dim=attributes(node)["axis"])


def _softmax(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    return torch.softmax(inputs[0], dim=attributes(node).get("axis", -1))


def _transpose(node: onnx.NodeProto, inputs: Sequence[Any]) -> Tensor:
    order = attributes(node).get("perm") or list(reversed(range(inputs[0].ndim)))
    return torch.permute(inputs[0], list(order))


OPERATORS: Mapping[str, Operator] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda _, inputs: torch.matmul(inputs[0], inputs[1]),
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": lambda _, i: i[0].mean(dim=tuple(range(2, i[0].ndim)), keepdim=True),
    "Relu": lambda _, inputs: torch.relu(inputs[0]),
    "LeakyRelu": lambda node, i: functional.leaky_relu(i[0], attributes(node).get("alpha", 0.01)),
    "Clip": _clip,
    "Sigmoid": lambda _, inputs: torch.sigmoid(inputs[0]),
    "Softmax": _softmax,
    "Add": lambda _, inputs: torch.add(inputs[0], inputs[1]),
    "Mul": lambda _, inputs: torch.mul(inputs[0], inputs[1]),
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
