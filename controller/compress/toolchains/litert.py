"""ONNX to ``.tflite``: our own emitter, for float models and for our Q/DQ form in s8s8.

Writes the flatbuffer through the schema that ships with the runtime: no TensorFlow, no torch, and
so an ONNX-only source has a LiteRT variant too. Images go from NCHW to NHWC. Inputs and outputs
stay float32; a quantized model quantizes at its first operator and dequantizes after its last.

An operator that is not known here makes no file: the error names it.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import onnx

from controller.compress.graph.model import View, attributes, model_input, shapes, with_batch
from controller.compress.graph.normalize import normalized
from controller.compress.toolchains import litert_ops
from controller.compress.toolchains.litert_graph import Emitter
from controller.errors import FitError

FILE_IDENTIFIER = b"TFL3"


def convert(model: onnx.ModelProto) -> bytes:
    """The content of a ``.tflite`` file with batch 1.

    Args:
        model: a float model, or the result of ``quantize.static`` in scheme s8s8.

    Raises:
        FitError: an operator or a form of it has no counterpart here; the message lists them.
    """
    work = with_batch(model if _is_quantized(model) else normalized(model), 1)
    unknown = [
        f"{node.op_type} '{node.name}'"
        for node in work.graph.node
        if node.op_type not in litert_ops.EMIT and node.op_type != "Constant"
    ]
    if unknown:
        raise FitError(f"no LiteRT variant: {', '.join(unknown)} is not known to the emitter")
    emitter = Emitter(View(work), shapes(work))
    source = model_input(work)
    emitter.input(source.name)
    for node in work.graph.node:
        if node.op_type != "Constant":
            litert_ops.EMIT[node.op_type](emitter, node, attributes(node))
    for output in work.graph.output:
        emitter.output(output.name)
    return _packed(emitter.model())


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())
