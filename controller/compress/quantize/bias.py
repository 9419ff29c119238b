"""Empirical bias correction: give back the mean that quantization moved.

Per layer and output channel, ``b += E[float output] - E[quantized output]``, layer by layer in
order, each with the inputs that the corrected layers before it give. It can hurt, so the caller
must compare and may throw the result away.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.graph.model import (
    Array,
    Inputs,
    View,
    copied,
    run_batches,
    with_outputs,
)
from controller.compress.graph.normalize import normalized


def correct(
    fp32: onnx.ModelProto, quantized: onnx.ModelProto, inputs: Inputs, *, batch: int = 64
) -> onnx.ModelProto:
    """A copy of ``quantized`` (from `static.quantize` of ``fp32``) with corrected biases.

    Args:
        fp32: the float model that was quantized.
        quantized: its Q/DQ form.
        inputs: real inputs, float32 [N, …].
        batch: inputs in one run.
    """
    result = copied(quantized)
    base = normalized(fp32)
    layers = {node.name: node.output[0] for node in base.graph.node}
    wanted = [n for n in result.graph.node if n.op_type in ("Conv", "Gemm") and n.name in layers]
    expected = _means(base, [layers[node.name] for node in wanted], inputs, batch)
    for node in wanted:
        integers, scale = _bias(result, node)
        if integers is None or scale is None:
            continue
        found = _means(result, [node.output[0]], inputs, batch)[node.output[0]]
        moved = expected[layers[node.name]] - found
        steps = np.rint(moved / numpy_helper.to_array(scale).astype(np.float64))
        limits = np.iinfo(np.int32)
        values = np.clip(numpy_helper.to_array(integers) + steps, limits.min, limits.max)
        integers.CopyFrom(numpy_helper.from_array(values.astype(np.int32), integers.name))
    return result


def _bias(
    model: onnx.ModelProto, node: onnx.NodeProto
) -> tuple[onnx.TensorProto | None, onnx.TensorProto | None]:
    """Integer bias and its scale, where the node has one behind a DequantizeLinear."""
    view = View(model)
    reader = view.producers.get(node.input[2]) if len(node.input) > 2 else None
    if reader is None or reader.op_type != "DequantizeLinear":
        return None, None
    return view.initializers.get(reader.input[0]), view.initializers.get(reader.input[1])


def _means(
    model: onnx.ModelProto, tensors: list[str], inputs: Inputs, batch: int
) -> dict[str, NDArray[np.float64]]:
    """Mean per channel (axis 1) of some tensors over all inputs, each output channel [C]."""
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}

    def add(names: list[str], values: list[Array]) -> None:
        for name, value in zip(names, values, strict=True):
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            part = value.sum(axis=axes, dtype=np.float64)
            sums[name] = sums.get(name, 0.0) + part
            counts[name] = counts.get(name, 0) + value.size // value.shape[1]

    run_batches(with_outputs(model, list(dict.fromkeys(tensors))), inputs, add, batch=batch)
    return {name: sums[name] / counts[name] for name in sums}
