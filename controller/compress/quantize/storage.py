"""Weights that stayed float, stored in eight bits: a smaller file, computed as before.

What no integer layer reads (recurrent layers, what branches read from outside) keeps its
arithmetic: a ``DequantizeLinear`` gives the floats back under the old name. onnxruntime does that
anew in every run, so it costs time, and is for where bytes count.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from controller.compress.graph.model import Names, copied, model_inputs
from controller.compress.graph.normalize import replace_nodes

LEAST = 4_096  # values of a tensor that is worth it


def candidates(model: onnx.ModelProto) -> list[str]:
    """Names of float weights of two axes or more that are large enough."""
    fed = {item.name for item in model_inputs(model)} | {i.name for i in model.graph.output}
    return [
        item.name
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
        and len(item.dims) > 1
        and np.prod(item.dims) >= LEAST
        and item.name not in fed
    ]


def store(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with these weights in int8, a scale for each entry of their first real axis."""
    result, chosen = copied(model), set(candidates(model))
    names = Names(result)
    kept: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for item in result.graph.initializer:
        if item.name not in chosen:
            kept.append(onnx.TensorProto.FromString(item.SerializeToString()))
            continue
        node, tensors = _stored(item, names)
        nodes.append(node)
        kept += tensors
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    listed = [i for i in result.graph.input if i.name not in chosen]
    del result.graph.input[:]
    result.graph.input.extend(listed)
    replace_nodes(result.graph, [*nodes, *result.graph.node])
    return result


def _stored(
    item: onnx.TensorProto, names: Names
) -> tuple[onnx.NodeProto, tuple[onnx.TensorProto, ...]]:
    values = numpy_helper.to_array(item)
    axis = next((n for n, size in enumerate(values.shape) if size > 1), 0)
    others = tuple(n for n in range(values.ndim) if n != axis)
    scale = (np.abs(values).max(axis=others) / 127.0).astype(np.float32)
    scale[scale <= np.finfo(np.float32).tiny] = 1.0
    spread = scale.reshape([-1 if n == axis else 1 for n in range(values.ndim)])
    parts = {
        "int8": np.clip(np.rint(values / spread), -127, 127).astype(np.int8),
        "scale": scale,
        "zero": np.zeros(len(scale), np.int8),
    }
    tensors = tuple(
        numpy_helper.from_array(value, names.fresh(f"{item.name}_{what}"))
        for what, value in parts.items()
    )
    label = names.fresh(f"{item.name}_Dequantize")
    sources = [tensor.name for tensor in tensors]
    node = helper.make_node("DequantizeLinear", sources, [item.name], name=label, axis=axis)
    return node, tensors
