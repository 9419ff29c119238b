"""Convolutions and pooling: operators with a window, and their padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from controller.compress.toolchains.litert import layout
from controller.compress.toolchains.litert.emitter import Emitter, Step, Stored
from controller.compress.toolchains.litert.flat import Quantization
from controller.errors import FitError


def unsupported(step: Step, why: str) -> FitError:
    """The error for a node that LiteRT, or this emitter, does not have in that form."""
    return FitError(f"no LiteRT variant: {step.node.op_type} '{step.node.name}' {why}")


def activation(step: Step) -> int:
    """The fused activation's code."""
    return int(getattr(schema.ActivationFunctionType, step.activation))


def convolution(emitter: Emitter, step: Step) -> None:
    """CONV_2D with weights OHWI, or DEPTHWISE_CONV_2D with weights 1HWC."""
    weights = emitter.constant(step.node.input[1])
    if weights is None or weights.values.ndim != 4:
        raise unsupported(step, "needs constant weights of two spatial axes")
    groups = int(step.values.get("group", 1))
    outputs, per_group = weights.values.shape[:2]
    inputs = emitter.shape(step.node.input[0])[1]
    depthwise = groups > 1 and groups == inputs and per_group == 1
    if groups > 1 and not depthwise:
        raise unsupported(step, f"has {groups} groups (1 or one a channel can be written)")
    kernel = weights.values.shape[2:]
    dilations = tuple(step.values.get("dilations") or (1, 1))
    source, padding = _padded(emitter, step, kernel, dilations)
    perm, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    strides = step.values.get("strides") or (1, 1)
    options: dict[str, Any] = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": dilations[0],
        "dilationWFactor": dilations[1],
        "fusedActivationFunction": activation(step),
    }
    stored = weights_tensor(emitter, step, weights, perm=perm, axis=axis)
    bias = bias_tensor(emitter, step, weights, source=source, channels=outputs)
    if depthwise:
        options["depthMultiplier"] = outputs // inputs
        version = 3 if step.integer else 2 if dilations != (1, 1) else 1
        name, table = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
    else:
        version, name, table = 3 if step.integer else 1, "CONV_2D", "Conv2DOptions"
    operands = [source, stored, bias]
    emitter.flat.operator(name, version, operands, emitter.result(step), (table, options))


def pooling(emitter: Emitter, step: Step) -> None:
    """MAX_POOL_2D and AVERAGE_POOL_2D."""
    largest = step.node.op_type == "MaxPool"
    kernel = tuple(step.values["kernel_shape"])
    if len(kernel) != 2 or set(step.values.get("dilations") or (1, 1)) != {1}:
        raise unsupported(step, "needs a dense window of two axes")
    if len([name for name in step.node.output if name]) > 1:
        raise unsupported(step, "gives out indices")
    counted = step.values.get("count_include_pad", 0)
    fill = "least" if largest else "counted" if counted else "refuse"
    source, padding = _padded(emitter, step, kernel, (1, 1), fill=fill)
    strides = step.values.get("strides") or (1, 1)
    options = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "filterHeight": kernel[0],
        "filterWidth": kernel[1],
        "fusedActivationFunction": activation(step),
    }
    emitter.flat.operator(
        "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D",
        step.version_2,
        [source],
        emitter.result(step),
        ("Pool2DOptions", options),
    )


def weights_tensor(
    emitter: Emitter, step: Step, weights: Stored, *, perm: Sequence[int], axis: int
) -> int:
    """Weights in the file's order; their scales run along ``axis`` there."""
    values = weights.values if step.integer else weights.real
    quantization = weights.quantization if step.integer else None
    if quantization is not None:
        if values.dtype.name != "int8" or quantization.zero_point.any():
            raise unsupported(step, "has weights that are not symmetric int8")
        quantization = Quantization(
            scale=quantization.scale, zero_point=quantization.zero_point, axis=axis
        )
    return emitter.flat.constant(step.node.input[1], values.transpose(perm), quantization)


def bias_tensor(
    emitter: Emitter, step: Step, weights: Stored, *, source: int, channels: int
) -> int:
    """The bias, or zeros where there is none; int32 in units of input scale times weight scale."""
    name = step.node.input[2] if len(step.node.input) > 2 else ""
    bias = emitter.constant(name) if name else None
    label = name or f"{step.node.name}_bias"
    if not step.integer:
        values = np.zeros(channels, np.float32) if bias is None else bias.real
        return emitter.flat.constant(label, np.broadcast_to(values, (channels,)))
    read = emitter.flat.info(source).quantization
    assert read is not None
    assert weights.quantization is not None
    scale = (read.scale * weights.quantization.scale).astype(np.float32)
    integers = _integers(bias, scale, channels)
    quantization = Quantization(scale=scale, zero_point=np.zeros(len(scale), np.int64))
    return emitter.flat.constant(label, integers, quantization)


def _integers(bias: Stored | None, scale: NDArray[np.float32], channels: int) -> NDArray[Any]:
    if bias is None:
        return np.zeros(channels, np.int32)
    if bias.values.dtype == np.int32:
        return bias.values
    rounded = np.rint(bias.real.astype(np.float64) / scale)
    return np.broadcast_to(rounded, (channels,)).astype(np.int32)


def _padded(
    emitter: Emitter,
    step: Step,
    kernel: Sequence[int],
    dilations: Sequence[int],
    *,
    fill: str = "zero",
) -> tuple[int, int]:
    """The operand, padded by an operator of its own where SAME and VALID do not say it."""
    source = emitter.operand(step, 0)
    shape = emitter.shape(step.node.input[0])
    if len(shape) != 4:
        raise unsupported(step, f"takes a tensor of rank {len(shape)}, only rank 4 can be written")
    strides = tuple(step.values.get("strides") or (1, 1))
    same = layout.same_padding(shape[2:], kernel, strides, dilations)
    pads = _pads(step, same)
    _refuse_ceiling(step, shape[2:], kernel, dilations, pads)
    if not any(pads):
        return source, int(schema.Padding.VALID)
    if pads == same and fill != "counted":  # SAME averages leave padding out
        return source, int(schema.Padding.SAME)
    if fill == "refuse":
        raise unsupported(step, f"averages with padding {pads}, which only SAME could leave out")
    around = ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0))
    return pad(emitter, step, source, around, least=fill == "least"), int(schema.Padding.VALID)


def pad(
    emitter: Emitter,
    step: Step,
    source: int,
    around: Sequence[tuple[int, int]],
    *,
    least: bool = False,
    result: int | None = None,
) -> int:
    """PAD with zeros, or PADV2 with the least value; ``around`` is in the file's axes."""
    info = emitter.flat.info(source)
    label = f"{step.node.name}_padded"
    if result is None:
        shape = [n + a + b for n, (a, b) in zip(info.shape, around, strict=True)]
        result = emitter.flat.activation(label, shape, info.quantization)
    amounts = emitter.flat.constant(f"{label}_amounts", np.array(around, np.int32))
    if not least:
        return emitter.flat.operator(
            "PAD", step.version_2, [source, amounts], result, ("PadOptions", {})
        )
    least_value: NDArray[Any] = (
        np.array([-128], np.int8) if step.integer else np.array([-np.inf], np.float32)
    )
    value = emitter.flat.constant(f"{label}_value", least_value, info.quantization)
    return emitter.flat.operator(
        "PADV2", step.version_2, [source, amounts, value], result, ("PadV2Options", {})
    )


def _pads(step: Step, same: tuple[int, ...]) -> tuple[int, ...]:
    automatic = step.values.get("auto_pad", b"NOTSET").decode()
    if automatic == "SAME_UPPER":
        return same
    if automatic == "SAME_LOWER":
        return (same[2], same[3], same[0], same[1])
    return tuple(step.values.get("pads") or (0, 0, 0, 0))


def _refuse_ceiling(
    step: Step,
    size: Sequence[int],
    kernel: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> None:
    """``ceil_mode`` is only refused where it makes a difference."""
    strides = step.values.get("strides") or (1, 1)
    for axis in range(2):
        room = size[axis] + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1
        if step.values.get("ceil_mode", 0) and room % strides[axis]:
            raise unsupported(step, "rounds its size up (ceil_mode)")
