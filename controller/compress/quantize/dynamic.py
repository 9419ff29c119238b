"""Dynamic int8: integer weights, activation ranges found at run time.

onnxruntime's own tool does it: nothing is calibrated, so there is nothing for us to choose.
Weights are uint8, for on x86 its ConvInteger with int8 weights is several times slower still.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import onnx

from controller.compress.graph.normalize import normalized


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize weights to uint8; the model takes and gives floats."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises every caller to run its own pre-processing
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "dynamic.onnx"
            quantize_dynamic(normalized(model), target, weight_type=QuantType.QUInt8)
            return onnx.load(target)
    finally:
        root.setLevel(level)
