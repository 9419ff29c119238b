"""LiteRT: ``.tflite`` files straight from ONNX, without TensorFlow."""

from __future__ import annotations

import numpy as np
import onnx

from controller.compress.graph.model import Inputs
from controller.compress.graph.normalize import normalized
from controller.compress.graph.subgraphs import listed
from controller.compress.toolchains.litert import layout
from controller.compress.toolchains.litert.emitter import Emitter
from controller.compress.toolchains.litert.operators import WRITERS
from controller.errors import FitError

__all__ = ["convert", "missing", "to_layout"]

_PLAIN = frozenset({"Constant", "QuantizeLinear", "DequantizeLinear"})


def convert(model: onnx.ModelProto) -> bytes:
    """Write a float model, or one in s8s8 Q/DQ form, as a ``.tflite`` file.

    Images are NHWC in the file (see `to_layout`); input and output are float32 also where the
    inside is int8, so that applications feed every variant alike. A free batch axis stays free.

    Raises:
        FitError: "no LiteRT variant: …" with the operators and nodes that stand in the way.
    """
    plain = normalized(model)
    unknown = missing(plain)
    if unknown:
        raise FitError(f"no LiteRT variant: nothing is known of {', '.join(unknown)}")
    emitter = Emitter(plain)
    for node in plain.graph.node:
        if node.name in emitter.done or node.op_type in ("Constant", "DequantizeLinear"):
            continue
        if node.op_type == "QuantizeLinear":
            emitter.quantize(node)
        elif emitter.view.constant(node.output[0]) is None:
            WRITERS[node.op_type](emitter, emitter.step(node))
    return emitter.finish([item.name for item in plain.graph.output])


def missing(model: onnx.ModelProto) -> tuple[str, ...]:
    """Nodes of a model that cannot be written, by operator: ``"Erf 'name' and 3 more"``."""
    return listed(
        node
        for node in normalized(model).graph.node
        if node.domain not in ("", "ai.onnx")
        or (node.op_type not in WRITERS and node.op_type not in _PLAIN)
    )


def to_layout(inputs: Inputs) -> Inputs:
    """Inputs of the source in the file's layout: images [N, C, H, W] to [N, H, W, C]."""
    if inputs.ndim != 4:
        return inputs
    return np.ascontiguousarray(inputs.transpose(layout.TO_NHWC))
