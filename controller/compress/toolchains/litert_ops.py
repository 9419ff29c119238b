"""One function an ONNX operator: how it is said in ``.tflite``.

Versions of operators are those of the kernels that read int8 (schema documentation of LiteRT).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from controller.compress.toolchains.litert_graph import Emitter, Quant
from controller.errors import FitError

Emit = Callable[[Emitter, onnx.NodeProto, dict[str, Any]], None]
_NONE, _RELU, _RELU6 = 0, 1, 3  # ActivationFunctionType


def _follow(e: Emitter, node: onnx.NodeProto) -> tuple[str, int]:
    """The tensor that a node's result ends in after a fused ReLU, and that activation."""
    reader = e.view.only_consumer(node.output[0])
    if reader is not None and reader.op_type == "Relu":
        return reader.output[0], _RELU
    if reader is not None and reader.op_type == "Clip" and _is_relu6(e, reader):
        return reader.output[0], _RELU6
    return node.output[0], _NONE


def _is_relu6(e: Emitter, node: onnx.NodeProto) -> bool:
    bounds = [e.view.constant(name) for name in node.input[1:3]]
    return (
        len(bounds) == 2
        and all(b is not None for b in bounds)
        and [float(b) for b in bounds if b is not None] == [0.0, 6.0]
    )


def _result(
    e: Emitter, node: onnx.NodeProto, *, integer: bool, fused: bool = True
) -> tuple[int, int]:
    """The output tensor of a node (integer where Q follows), and the fused activation."""
    end, activation = _follow(e, node) if fused else (node.output[0], _NONE)
    follows = e.quantized_name(end) if integer else None
    if follows is None:
        index = e.tensor(end, e.shape(end))
    else:
        index = e.tensor(end, e.shape(end), "int8", follows[1])
        e.index[follows[0]] = index
    e.index[node.output[0]] = e.index[end] = index
    return index, activation


def _weights(
    e: Emitter, name: str, move: Callable[[NDArray[Any]], NDArray[Any]], axis: int
) -> tuple[int, Quant | None]:
    """A constant, or the integers behind its DQ, with axes moved; scale along ``axis``."""
    maker = e.view.producers.get(name)
    if maker is not None and maker.op_type == "DequantizeLinear":
        values = e.view.constant(maker.input[0])
        found = e.parameters(list(maker.input[1:]))
        if values is None:
            raise FitError(f"no LiteRT variant: '{name}' is not constant")
        quant = Quant(scale=found.scale, zero_point=found.zero_point, axis=axis)
        moved = move(values)
        return e.tensor(name, moved.shape, values.dtype.name, quant, moved), quant
    plain = e.view.constant(name)
    if plain is None:
        raise FitError(f"no LiteRT variant: '{name}' is not constant")
    moved = move(plain.astype(np.float32))
    return e.tensor(name, moved.shape, "float32", None, moved), None


def _bias(
    e: Emitter, node: onnx.NodeProto, channels: int, source: int, weights: Quant | None
) -> int:
    if len(node.input) > 2 and node.input[2]:
        return _weights(e, node.input[2], lambda b: b, 0)[0]
    if weights is None:
        return e.tensor(f"{node.name}_bias", (channels,), data=np.zeros(channels, np.float32))
    given = e.quant_of(source)
    scale = weights.scale * (given.scale[0] if given else 1.0)
    quant = Quant(scale=scale.astype(np.float32), zero_point=np.zeros(scale.shape, np.int64))
    return e.tensor(f"{node.name}_bias", (channels,), "int32", quant, np.zeros(channels, np.int32))


def _convolution(e: Emitter, node: onnx.NodeProto, values: dict[str, Any]) -> None:
    known = e.shapes[node.input[0]]
    groups = int(values.get("group", 1))
    channels = known[1]
    depthwise = groups == channels and groups > 1
    if groups not in (1, channels):
        raise FitError(f"no LiteRT variant: '{node.name}' is a grouped convolution")
    move = (lambda w: w.transpose(1, 2, 3, 0)) if depthwise else (lambda w: w.transpose(0, 2, 3, 1))
    weights, quant = _weights(e, node.input[1], move, 3 if depthwise else 0)
    source = e.index[node.input[0]]
    strides = [int(s) for s in values.get("strides", [1, 1])]
    dilations = [int(d) for d in values.get("dilations", [1, 1])]
    kernel = [int(k) for k in values["kernel_shape"]]
    source, padding = _padded(e, node, source, values, kernel, strides, dilations)
    channels_out = e.shapes[node.output[0]][1]
    bias = _bias(e, node, channels_out, source, quant)
    target, activation = _result(e, node, integer=e.is_integer(source))
    options: Any
    if depthwise:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = channels_out // channels
    else:
        options = schema.Conv2DOptionsT()
    options.padding, options.fusedActivationFunction = padding, activation
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    e.operator(kind, [source, weights, bias], [target], version=3, options=options)


def _padded(
    e: Emitter,
    node: onnx.NodeProto,
    source: int,
    values: dict[str, Any],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> tuple[int, int]:
    """SAME or VALID where that says it; otherwise an explicit PAD before a VALID."""
    pads = [int(p) for p in values.get("pads", [0, 0, 0, 0])]
    if values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise FitError(f"no LiteRT variant: '{node.name}' pads automatically")
    if not any(pads):
        return source, schema.Padding.VALID
    _, _, height, width = e.shapes[node.input[0]]
    same = [
        _same_pads(size, k, s, d)
        for size, k, s, d in zip((height, width), kernel, strides, dilations, strict=True)
    ]
    if [same[0][0], same[1][0], same[0][1], same[1][1]] == pads:
        return source, schema.Padding.SAME
    amounts = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    shape = (1, height + pads[0] + pads[2], width + pads[1] + pads[3], e.shapes[node.input[0]][1])
    quant = e.quant_of(source)
    dtype = "int8" if e.is_integer(source) else "float32"
    made = e.tensor(f"{node.name}_padded", shape, dtype, quant)
    widths = e.tensor(f"{node.name}_pads", (4, 2), "int32", None, amounts)
    e.operator("PAD", [source, widths], [made], version=2, options=schema.PadOptionsT())
    return made, schema.Padding.VALID


def _same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding before and after that SAME means."""
    reach = (kernel - 1) * dilation + 1
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    return total // 2, total - total // 2


def _pool(e: Emitter, node: onnx.NodeProto, values: dict[str, Any]) -> None:
    source = e.index[node.input[0]]
    kernel = [int(k) for k in values["kernel_shape"]]
    strides = [int(s) for s in values.get("strides", [1, 1])]
    if any(values.get("pads", [])) or values.get("ceil_mode", 0):
        raise FitError(f"no LiteRT variant: '{node.name}' pools with padding")
    target, _ = _result(e, node, integer=e.is_integer(source), fused=False)
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = strides
    kind = "MAX_POOL_2D" if node.op_type == "MaxPool" else "AVERAGE_POOL_2D"
    e.operator(kind, [source], [target], version=2, options=options)


def _global_pool(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
    source = e.index[node.input[0]]
    target, _ = _result(e, node, integer=e.is_integer(source), fused=False)
    axes = e.tensor(f"{node.name}_axes", (2,), "int32", None, np.array([1, 2], np.int32))
    options = schema.ReducerOptionsT()
    options.keepDims = True
    e.operator("MEAN", [source, axes], [target], version=2, options=options)


def _reshape(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
    source = e.index[node.input[0]]
    before = e.shapes[node.input[0]]
    if len(before) == 4 and before[2:] != (1, 1):
        raise FitError(f"no LiteRT variant: '{node.name}' flattens an image channels first")
    target, _ = _result(e, node, integer=e.is_integer(source), fused=False)
    shape = e.shape(node.output[0])
    wanted = e.tensor(f"{node.name}_shape", (len(shape),), "int32", None, np.array(shape, np.int32))
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    e.operator("RESHAPE", [source, wanted], [target], options=options)


def _gemm(e: Emitter, node: onnx.NodeProto, values: dict[str, Any]) -> None:
    transposed = node.op_type == "Gemm" and bool(values.get("transB", 0))
    move = (lambda w: w) if transposed else (lambda w: w.transpose(1, 0))
    weights, quant = _weights(e, node.input[1], move, 0)
    source = e.index[node.input[0]]
    bias = _bias(e, node, e.shapes[node.output[0]][-1], source, quant)
    integer = e.is_integer(source)
    if integer and e.quantized_name(_follow(e, node)[0]) is None:
        source = _dequantized(e, node.input[0], source)
        weights, bias = _float_constants(e, node, move)
        integer = False
    target, activation = _result(e, node, integer=integer)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    version = 5 if integer else 1
    e.operator(
        "FULLY_CONNECTED", [source, weights, bias], [target], version=version, options=options
    )


def _dequantized(e: Emitter, name: str, source: int) -> int:
    made = e.tensor(f"{name}_float", e.shape(name))
    e.operator("DEQUANTIZE", [source], [made], version=2, options=schema.DequantizeOptionsT())
    return made


def _float_constants(
    e: Emitter, node: onnx.NodeProto, move: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[int, int]:
    """Weights and bias of a last product in float: its output stays float."""
    found = []
    for name, change in ((node.input[1], move), (node.input[2], lambda b: b)):
        maker = e.view.producers[name]
        values = e.view.constant(maker.input[0])
        scale = e.view.constant(maker.input[1])
        if values is None or scale is None:
            raise FitError(f"no LiteRT variant: '{name}' is not constant")
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 0)
        shaped = (
            scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
            if scale.ndim
            else scale
        )
        real = change((values.astype(np.float32) * shaped).astype(np.float32))
        found.append(e.tensor(f"{name}_float", real.shape, "float32", None, real))
    return found[0], found[1]


def _binary(kind: str, options_of: Callable[[], Any]) -> Emit:
    def emit(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
        sources = [e.index[name] for name in node.input if name in e.index]
        if len(sources) != 2:
            raise FitError(f"no LiteRT variant: '{node.name}' has a constant operand")
        target, activation = _result(e, node, integer=all(map(e.is_integer, sources)))
        options = options_of()
        options.fusedActivationFunction = activation
        e.operator(kind, sources, [target], version=2, options=options)

    return emit


def _unary(kind: str, *, version: int, options_of: Callable[[], Any] | None = None) -> Emit:
    def emit(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
        if node.output[0] in e.index:
            return  # fused into the operator before it
        source = e.index[node.input[0]]
        target, _ = _result(e, node, integer=e.is_integer(source), fused=False)
        options = options_of() if options_of else None
        e.operator(kind, [source], [target], version=version, options=options)

    return emit


def _clip(e: Emitter, node: onnx.NodeProto, values: dict[str, Any]) -> None:
    if not _is_relu6(e, node):
        raise FitError(f"no LiteRT variant: '{node.name}' clips to other bounds than 0 and 6")
    _unary("RELU6", version=2)(e, node, values)


def _softmax_options() -> Any:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return options


def _quantize(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
    if node.output[0] in e.index:
        return  # the operator before it writes integers
    quant = e.parameters(list(node.input[1:]))
    target = e.tensor(node.output[0], e.shape(node.input[0]), "int8", quant)
    e.operator(
        "QUANTIZE", [e.index[node.input[0]]], [target], version=1,
        options=schema.QuantizeOptionsT(),
    )  # fmt: skip
    e.index[node.output[0]] = target


def _dequantize(e: Emitter, node: onnx.NodeProto, _values: dict[str, Any]) -> None:
    """An alias: readers take the integers. Constants are read where they are used."""
    if node.input[0] in e.index:
        e.index[node.output[0]] = e.index[node.input[0]]


EMIT: Mapping[str, Emit] = {
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "Flatten": _reshape,
    "Reshape": _reshape,
    "Add": _binary("ADD", schema.AddOptionsT),
    "Mul": _binary("MUL", schema.MulOptionsT),
    "Relu": _unary("RELU", version=2),
    "Clip": _clip,
    "Sigmoid": _unary("LOGISTIC", version=2),
    "Softmax": _unary("SOFTMAX", version=2, options_of=_softmax_options),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
"""Operator to its function; what is not here makes no file."""
