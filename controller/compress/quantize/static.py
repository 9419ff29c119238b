"""Our own Q/DQ emitter: a float model and ranges in, an int8 model in Q/DQ form out.

Where the pairs stand is decided in `placement`; here they are written. Each activation has one
scale and one zero point, shared by its ``QuantizeLinear`` and ``DequantizeLinear`` and by nothing
else, so that calibration on a device can change them in one place each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from controller.compress.graph.model import Array, Names, View, attributes, opset
from controller.compress.graph.normalize import normalized, replace_nodes
from controller.compress.graph.subgraphs import drop_unread, rename_reads, used_names
from controller.compress.quantize import numbers, placement
from controller.compress.quantize.numbers import Affine, Rules, Weights
from controller.compress.quantize.observers import Range
from controller.compress.quantize.placement import Placement
from controller.errors import FitError

ACTIVATION_TYPES: Mapping[str, type[np.integer[Any]]] = {
    "u8s8": np.uint8,
    "s8s8": np.int8,
    "u8u8": np.uint8,
    "s16s8": np.int16,
}
OPSET_INT16, IR_VERSION_INT16 = 21, 10  # QuantizeLinear knows int16 from there
_SIGMOID = Range(low=0.0, high=255.0 / 256.0)  # the only scale that LiteRT's kernel takes: 1/256


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The model, and the nodes that stayed float (``"Softmax 'name'"``)."""

    model: onnx.ModelProto
    left_float: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Work:
    """What one run of the emitter carries along."""

    scheme: str
    rules: Rules
    view: View
    names: Names
    placement: Placement
    scales: Mapping[str, Affine]  # by tensor
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    real: dict[str, str] = field(default_factory=dict)  # tensor -> its name after Q and DQ

    def store(self, wish: str, values: Array) -> str:
        name = self.names.fresh(wish)
        self.initializers.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name


def quantize(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    scheme: str,
    skip: frozenset[str] = frozenset(),
    rules: Rules | None = None,
) -> onnx.ModelProto:
    """Quantize to int8; see `quantize_listed` for what stayed float."""
    return quantize_listed(model, ranges, scheme=scheme, skip=skip, rules=rules).model


def quantize_listed(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    scheme: str,
    skip: frozenset[str] = frozenset(),
    rules: Rules | None = None,
) -> Quantized:
    """Quantize to int8 in Q/DQ form.

    Args:
        model: float model, batch normalizations folded.
        ranges: from `ranges.collect` of the same model.
        scheme: "u8s8", "s8s8" (activations then weights: symmetric int8 weights, a scale for
            each output channel), "u8u8" (uint8 weights, one scale and zero point) or "s16s8"
            (int16 activations for accelerators that have them; onnxruntime's CPU kernels compute
            these in float, and the file needs opset 21).
        skip: names of nodes of the normalized model that stay float.
        rules: of scales and zero points.

    Raises:
        FitError: unknown scheme, or a range is missing.
    """
    if scheme not in ACTIVATION_TYPES:
        raise FitError(f"unknown scheme '{scheme}', known: {', '.join(ACTIVATION_TYPES)}")
    rules = rules or Rules()
    result = normalized(model)
    if scheme == "s16s8" and opset(result) < OPSET_INT16:
        result = onnx.version_converter.convert_version(result, OPSET_INT16)
        result.ir_version = max(result.ir_version, IR_VERSION_INT16)
    # Only onnxruntime's integer product gives floats; LiteRT's needs a scale of its output.
    placed = placement.place(result, skip=skip, float_output=scheme != "s8s8")
    work = _Work(
        scheme=scheme,
        rules=rules,
        view=View(result),
        names=Names(result),
        placement=placed,
        scales=scales(result, placed, ranges, np.dtype(ACTIVATION_TYPES[scheme]), rules),
    )
    _write(result, work)
    _drop_unread(result)
    onnx.checker.check_model(result)
    return Quantized(model=result, left_float=tuple(placed.left_float))


def scales(
    model: onnx.ModelProto,
    placed: Placement,
    ranges: Mapping[str, Range],
    dtype: np.dtype[Any],
    rules: Rules,
) -> dict[str, Affine]:
    """Scale and zero point of each integer tensor; a group covers the ranges of all its members."""
    fixed = {n.output[0]: _SIGMOID for n in model.graph.node if n.op_type == "Sigmoid"}
    tables = _tables(model)
    found: dict[str, Range] = {}
    for tensor, group in placed.groups.items():
        if tensor not in ranges:
            raise FitError(
                f"no range for '{tensor}': collect ranges on the same model that is quantized"
            )
        own = fixed.get(tensor, ranges[tensor])
        if tensor in tables:  # tokens that calibration never saw have rows, too
            own = own.merged(tables[tensor])
        found[group] = found[group].merged(own) if group in found else own
    chosen = {group: numbers.affine(total, dtype, rules) for group, total in found.items()}
    return {tensor: chosen[group] for tensor, group in placed.groups.items()}


def _tables(model: onnx.ModelProto) -> dict[str, Range]:
    """The range of all rows of each embedding, by the tensor that is looked up."""
    view = View(model)
    tables = {
        node.output[0]: view.constant(node.input[0])
        for node in model.graph.node
        if node.op_type == "Gather"
    }
    return {
        name: Range(low=float(table.min()), high=float(table.max()))
        for name, table in tables.items()
        if table is not None and table.size and table.dtype == np.float32
    }


def _write(model: onnx.ModelProto, work: _Work) -> None:
    nodes: list[onnx.NodeProto] = []
    for item in model.graph.input:
        if item.name in work.scales:
            nodes += _pair(item.name, item.name, work)
    for node in model.graph.node:
        before = _feed(node, work)
        made = [name for name in node.output if name in work.scales]
        for index, name in enumerate(node.input):
            node.input[index] = work.real.get(name, name)
        rename_reads(node, work.real)
        nodes += [*before, node]
        for tensor in made:
            nodes += _pair(tensor, _raw_name(node, tensor, work), work)
    replace_nodes(model.graph, nodes)
    model.graph.initializer.extend(work.initializers)


def _raw_name(node: onnx.NodeProto, tensor: str, work: _Work) -> str:
    """Name of a tensor before Q and DQ. An output of the graph keeps its name behind them."""
    if tensor not in work.view.outputs:
        return tensor
    raw = work.names.fresh(f"{tensor}_raw")
    node.output[list(node.output).index(tensor)] = raw
    return raw


def _pair(tensor: str, raw: str, work: _Work) -> list[onnx.NodeProto]:
    """``QuantizeLinear`` and ``DequantizeLinear`` of an activation."""
    chosen = work.scales[tensor]
    scale = work.store(f"{tensor}_scale", np.asarray(chosen.scale))
    zero_point = work.store(f"{tensor}_zero_point", chosen.zero_point)
    integer = work.names.fresh(f"{tensor}_quantized")
    is_output = tensor in work.view.outputs and raw != tensor
    real = tensor if is_output else work.names.fresh(f"{tensor}_dequantized")
    work.real[tensor] = real
    return [
        helper.make_node(
            "QuantizeLinear",
            [raw, scale, zero_point],
            [integer],
            name=work.names.fresh(f"{tensor}_Quantize"),
        ),
        helper.make_node(
            "DequantizeLinear",
            [integer, scale, zero_point],
            [real],
            name=work.names.fresh(f"{tensor}_Dequantize"),
        ),
    ]


def _feed(node: onnx.NodeProto, work: _Work) -> list[onnx.NodeProto]:
    """Integer weights, bias and constants of an integer node, each behind a DequantizeLinear."""
    if node.name not in work.placement.nodes:
        return []
    if node.op_type in placement.HEAVY:
        return _feed_heavy(node, work)
    if node.op_type in placement.ELEMENTWISE:
        return _feed_constants(node, work)
    if node.op_type == "Gather":
        return _feed_table(node, work)
    return []


def _feed_heavy(node: onnx.NodeProto, work: _Work) -> list[onnx.NodeProto]:
    values = work.view.constant(node.input[1])
    assert values is not None  # placement asked
    channels_axis = _output_axis(node)
    channels = values.shape[channels_axis]
    bias_name = node.input[2] if len(node.input) > 2 else ""
    bias = work.view.constant(bias_name) if bias_name else np.zeros(channels, np.float32)
    assert bias is not None
    bias = np.broadcast_to(bias, (channels,)).astype(np.float32)
    input_scale = work.scales[node.input[0]].scale
    weights = _weights(node, values, bias, input_scale, work)
    nodes = [_stored(f"{node.name}_weight", weights, work)]
    node.input[1] = nodes[0].output[0]
    if node.op_type == "MatMul":
        return nodes
    # A bias is written even where there was none: bias correction and calibration need its place.
    integers, scale = numbers.integer_bias(bias, weights, input_scale)
    as_weights = Weights(
        values=integers,
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int32),
        axis=None if weights.axis is None else 0,
    )
    nodes.append(_stored(f"{node.name}_bias", as_weights, work))
    del node.input[2:]
    node.input.append(nodes[1].output[0])
    return nodes


def _feed_table(node: onnx.NodeProto, work: _Work) -> list[onnx.NodeProto]:
    """An embedding's rows, in the very integers that its output has: the look-up copies bytes."""
    table = work.view.constant(node.input[0])
    assert table is not None  # placement asked
    chosen = work.scales[node.output[0]]
    stored = _as_activation(table, chosen)
    nodes = [_stored(f"{node.name}_table", stored, work)]
    node.input[0] = nodes[0].output[0]
    return nodes


def _as_activation(values: Array, chosen: Affine) -> Weights:
    limits = np.iinfo(chosen.zero_point.dtype)
    integers = np.rint(values / chosen.scale) + float(chosen.zero_point)
    return Weights(
        values=np.clip(integers, limits.min, limits.max).astype(chosen.zero_point.dtype),
        scale=np.asarray(chosen.scale),
        zero_point=chosen.zero_point,
        axis=None,
    )


def _weights(
    node: onnx.NodeProto,
    values: Array,
    bias: Array,
    input_scale: np.float32,
    work: _Work,
) -> Weights:
    if work.scheme == "u8u8":
        return numbers.asymmetric(values, work.rules)
    axis = _output_axis(node) if work.rules.per_channel else None
    return numbers.symmetric(
        values, axis=axis, bias=bias, input_scale=input_scale, rules=work.rules
    )


def _feed_constants(node: onnx.NodeProto, work: _Work) -> list[onnx.NodeProto]:
    """A constant operand of Add or Mul, quantized as an activation is."""
    nodes = []
    for index, name in enumerate(node.input):
        constant = work.view.constant(name)
        if constant is None:
            continue
        dtype = np.dtype(ACTIVATION_TYPES[work.scheme])
        found = Range(low=float(constant.min()), high=float(constant.max()))
        stored = _as_activation(constant, numbers.affine(found, dtype, work.rules))
        nodes.append(_stored(f"{node.name}_constant", stored, work))
        node.input[index] = nodes[-1].output[0]
    return nodes


def _stored(wish: str, weights: Weights, work: _Work) -> onnx.NodeProto:
    """Initializers of integer values and the ``DequantizeLinear`` that reads them."""
    sources: Sequence[str] = [
        work.store(f"{wish}_quantized", weights.values),
        work.store(f"{wish}_scale", weights.scale),
        work.store(f"{wish}_zero_point", weights.zero_point),
    ]
    options: dict[str, Any] = {} if weights.axis is None else {"axis": weights.axis}
    return helper.make_node(
        "DequantizeLinear",
        sources,
        [work.names.fresh(f"{wish}_dequantized")],
        name=work.names.fresh(f"{wish}_Dequantize"),
        **options,
    )


def _output_axis(node: onnx.NodeProto) -> int:
    """Axis of a weight tensor that counts output channels."""
    if node.op_type == "Conv" or attributes(node).get("transB", 0):
        return 0
    return 1


def _drop_unread(model: onnx.ModelProto) -> None:
    """Float weights that were replaced, and Constant nodes that held them."""
    graph = model.graph
    drop_unread(graph)
    used = used_names(graph)
    replace_nodes(graph, [n for n in graph.node if n.op_type != "Constant" or n.output[0] in used])
