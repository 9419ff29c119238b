"""Fold ``BatchNormalization`` into the convolution before it, in a model that came as ONNX.

    W' = W·γ/√(σ²+ε)    b' = (b − μ)·γ/√(σ²+ε) + β

What comes from torch was folded there. Done in place, where everything is constant and nobody
else reads the convolution's result.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from controller.compress.graph.model import Array, Names, View, attributes


def fold_norms(model: onnx.ModelProto) -> frozenset[str]:
    """Fold all that can be folded; outputs of the nodes that are then to be dropped.

    The convolution gives the normalization's output itself.
    """
    view, names = View(model), Names(model)
    gone: set[str] = set()
    for norm in model.graph.node:
        if norm.op_type != "BatchNormalization" or any(norm.output[1:]):
            continue
        layer = view.producers.get(norm.input[0])
        folded = None if layer is None else _folded(layer, norm, view)
        if layer is None or folded is None:
            continue
        for position, (what, values) in enumerate(zip(("weight", "bias"), folded, strict=True), 1):
            name = names.fresh(f"{layer.output[0]}_{what}_folded")
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            del layer.input[position:]
            layer.input.append(name)
        gone.add(layer.output[0])
        layer.output[0] = norm.output[0]
    return frozenset(gone)


def _folded(layer: onnx.NodeProto, norm: onnx.NodeProto, view: View) -> tuple[Array, Array] | None:
    """New weights and bias, or None where something stands in the way."""
    alone = view.only_consumer(layer.output[0]) is norm
    if layer.op_type != "Conv" or not alone:
        return None
    weights = view.constant(layer.input[1])
    numbers = [view.constant(name) for name in norm.input[1:5]]
    biased = len(layer.input) > 2 and layer.input[2]
    bias = view.constant(layer.input[2]) if biased else np.zeros(1, np.float32)
    if weights is None or bias is None or any(n is None for n in numbers):
        return None
    scale, shift, mean, variance = (n.astype(np.float64) for n in numbers if n is not None)
    factor = scale / np.sqrt(variance + float(attributes(norm).get("epsilon", 1e-5)))
    shaped = factor.reshape(-1, *([1] * (weights.ndim - 1)))
    return (
        (weights * shaped).astype(np.float32),
        ((bias - mean) * factor + shift).astype(np.float32),
    )
