"""The other operators, and the table of all that can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from controller.compress.toolchains.litert import layout
from controller.compress.toolchains.litert.emitter import Emitter, Step
from controller.compress.toolchains.litert.windows import (
    activation,
    bias_tensor,
    convolution,
    pad,
    pooling,
    unsupported,
    weights_tensor,
)


def product(emitter: Emitter, step: Step) -> None:
    """Gemm and MatMul with constant weights: FULLY_CONNECTED with weights [outputs, inputs]."""
    weights = emitter.constant(step.node.input[1])
    rank = len(emitter.shape(step.node.input[0]))
    if weights is None or weights.values.ndim != 2 or rank == 4:
        raise unsupported(step, "needs constant weights of two axes and an input of another rank")
    values = step.values
    if values.get("transA", 0) or {values.get("alpha", 1.0), values.get("beta", 1.0)} != {1.0}:
        raise unsupported(step, "transposes its input or has factors that are no constants")
    perm = (0, 1) if values.get("transB", 0) else (1, 0)
    source = emitter.operand(step, 0)
    operands = [
        source,
        weights_tensor(emitter, step, weights, perm=perm, axis=0),
        bias_tensor(emitter, step, weights, source=source, channels=weights.values.shape[perm[0]]),
    ]
    options = {"fusedActivationFunction": activation(step), "keepNumDims": rank > 2}
    version = 4 if step.integer else 1
    emitter.flat.operator(
        "FULLY_CONNECTED",
        5 if rank > 2 else version,
        operands,
        emitter.result(step),
        ("FullyConnectedOptions", options),
    )


def lookup(emitter: Emitter, step: Step) -> None:
    """Gather of a constant table's rows: GATHER, in integers where the table is."""
    table = emitter.constant(step.node.input[0])
    rank = len(emitter.shape(step.node.input[1]))
    if table is None or table.values.ndim != 2 or int(step.values.get("axis", 0)) or rank > 2:
        raise unsupported(step, "looks up something else than rows of a constant table")
    if step.integer and not (
        table.quantization and step.quantization and table.quantization.same_as(step.quantization)
    ):
        raise unsupported(step, "has a table of another scale than its rows")
    values = table.values if step.integer else table.real
    stored = emitter.flat.constant(
        step.node.input[0], values, table.quantization if step.integer else None
    )
    operands = [stored, emitter.real(step.node.input[1])]
    options = ("GatherOptions", {"axis": 0, "batchDims": 0})
    emitter.flat.operator("GATHER", step.version_2, operands, emitter.result(step), options)


def mean(emitter: Emitter, step: Step) -> None:
    """GlobalAveragePool and ReduceMean: MEAN."""
    shape = emitter.shape(step.node.input[0])
    if step.node.op_type == "GlobalAveragePool":
        axes, keeps = list(range(2, len(shape))), True
    else:
        listed = step.values.get("axes")
        if listed is None and len(step.node.input) > 1:
            constant = emitter.constant(step.node.input[1])
            listed = None if constant is None else constant.values.tolist()
        axes = list(listed) if listed is not None else list(range(len(shape)))
        keeps = bool(step.values.get("keepdims", 1))
    if len(shape) == 4 and not keeps:
        raise unsupported(step, "drops axes of an image")
    chosen = np.array(sorted(layout.file_axis(a, len(shape)) for a in axes), np.int32)
    operands = [
        emitter.operand(step, 0),
        emitter.flat.constant(f"{step.node.name}_axes", chosen),
    ]
    options = {"keepDims": keeps}
    emitter.flat.operator(
        "MEAN", step.version_2, operands, emitter.result(step), ("ReducerOptions", options)
    )


def reshape(emitter: Emitter, step: Step) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze. Images are turned to NCHW first, where it matters."""
    before, after = emitter.shape(step.node.input[0]), step.source_shape
    source = emitter.operand(step, 0)
    if before == after or not (layout.moves(before) or layout.moves(after)):
        _reshape_to(emitter, step, source, layout.file_shape(after), emitter.result(step))
        return
    info, name = emitter.flat.info(source), step.node.name
    if layout.moves(before):
        turned = emitter.flat.activation(f"{name}_nchw", before, info.quantization)
        source = _transpose(emitter, step, source, layout.TO_NCHW, turned)
    if not layout.moves(after):
        _reshape_to(emitter, step, source, layout.file_shape(after), emitter.result(step))
        return
    shaped = emitter.flat.activation(f"{name}_shaped", after, info.quantization)
    _reshape_to(emitter, step, source, after, shaped)
    _transpose(emitter, step, shaped, layout.TO_NHWC, emitter.result(step))


def transpose(emitter: Emitter, step: Step) -> None:
    """TRANSPOSE."""
    rank = len(step.source_shape)
    perm = layout.file_perm(step.values.get("perm") or range(rank)[::-1], rank)
    _transpose(emitter, step, emitter.operand(step, 0), perm, emitter.result(step))


def elementwise(emitter: Emitter, step: Step) -> None:
    """ADD, MUL and SUB of two operands."""
    for name in step.node.input:
        if emitter.constant(name) is not None:
            continue
        if len(emitter.shape(name)) != len(step.source_shape):
            raise unsupported(step, "broadcasts an activation of another rank")
    name = step.node.op_type.upper()
    table = {"ADD": "AddOptions", "MUL": "MulOptions", "SUB": "SubOptions"}[name]
    operands = [emitter.operand(step, 0), emitter.operand(step, 1)]
    options = {"fusedActivationFunction": activation(step)}
    emitter.flat.operator(name, step.version_2, operands, emitter.result(step), (table, options))


def concat(emitter: Emitter, step: Step) -> None:
    """CONCATENATION."""
    axis = layout.file_axis(int(step.values["axis"]), len(step.source_shape))
    operands = [emitter.operand(step, i) for i in range(len(step.node.input))]
    options = {"axis": axis, "fusedActivationFunction": schema.ActivationFunctionType.NONE}
    emitter.flat.operator(
        "CONCATENATION",
        step.version_2,
        operands,
        emitter.result(step),
        ("ConcatenationOptions", options),
    )


def softmax(emitter: Emitter, step: Step) -> None:
    """SOFTMAX, which LiteRT has along the last axis only."""
    rank = len(step.source_shape)
    axis = layout.file_axis(int(step.values.get("axis", -1)), rank)
    if axis != rank - 1:
        raise unsupported(step, f"runs along axis {axis} of {rank}, not along the last")
    operands = [emitter.operand(step, 0)]
    options = ("SoftmaxOptions", {"beta": 1.0})
    emitter.flat.operator("SOFTMAX", step.version_2, operands, emitter.result(step), options)


def unary(emitter: Emitter, step: Step) -> None:
    """LOGISTIC, TANH, and ReLU and its like where nothing before could take them along."""
    name = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "LeakyRelu": "LEAKY_RELU"}.get(
        step.node.op_type
    ) or emitter.activation(step.node)
    if not name:
        raise unsupported(step, "has bounds other than 0 and 6")
    options = None
    if name == "LEAKY_RELU":
        options = ("LeakyReluOptions", {"alpha": float(step.values.get("alpha", 0.01))})
    operands = [emitter.operand(step, 0)]
    emitter.flat.operator(name, step.version_2, operands, emitter.result(step), options)


def padding(emitter: Emitter, step: Step) -> None:
    """PAD with zeros."""
    listed = step.values.get("pads")
    if listed is None:
        amounts = emitter.constant(step.node.input[1])
        listed = None if amounts is None else amounts.values.tolist()
    value = emitter.constant(step.node.input[2]) if len(step.node.input) > 2 else None
    mode = step.values.get("mode", b"constant").decode()
    filled = value is not None and float(value.real.reshape(-1)[0]) != 0.0
    if listed is None or mode != "constant" or filled or len(step.node.input) > 3:
        raise unsupported(step, "pads with something else than zeros")
    rank = len(step.source_shape)
    around = [(0, 0)] * rank
    for axis in range(rank):
        around[layout.file_axis(axis, rank)] = (listed[axis], listed[axis + rank])
    pad(emitter, step, emitter.operand(step, 0), around, result=emitter.result(step))


def _reshape_to(
    emitter: Emitter, step: Step, source: int, shape: tuple[int, ...], result: int
) -> None:
    target = [-1, *shape[1:]] if emitter.free_batch and shape else list(shape)
    wanted = emitter.flat.constant(f"{step.node.name}_shape", np.array(target, np.int32))
    options = ("ReshapeOptions", {"newShape": np.array(target, np.int32)})
    emitter.flat.operator("RESHAPE", 1, [source, wanted], result, options)


def _transpose(
    emitter: Emitter, step: Step, source: int, perm: tuple[int, ...], result: int
) -> int:
    options: tuple[str, dict[str, Any]] = ("TransposeOptions", {})
    order = emitter.flat.constant(f"{step.node.name}_order", np.array(perm, np.int32))
    return emitter.flat.operator("TRANSPOSE", step.version_2, [source, order], result, options)


WRITERS: Mapping[str, Callable[[Emitter, Step], None]] = {
    "Conv": convolution,
    "MaxPool": pooling,
    "AveragePool": pooling,
    "Gather": lookup,
    "Gemm": product,
    "MatMul": product,
    "GlobalAveragePool": mean,
    "ReduceMean": mean,
    "Flatten": reshape,
    "Reshape": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Add": elementwise,
    "Mul": elementwise,
    "Sub": elementwise,
    "Concat": concat,
    "Softmax": softmax,
    "Sigmoid": unary,
    "Tanh": unary,
    "Relu": unary,
    "Clip": unary,
    "LeakyRelu": unary,
    "Pad": padding,
}
