"""litert-torch and ai-edge-quantizer: PyTorch to `.tflite` to int8, their own recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer, recipe
from job import Job

job = Job("ai-edge-quantizer", "litert-torch", "ai-edge-litert")
fp32 = job.out / "fp32.tflite"


class Nhwc(torch.nn.Module):
    """Channels last at the input, as LiteRT's kernels want them."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images.permute(0, 3, 1, 2))
        return found


def quantized(path: Path, asked: Any, inputs: np.ndarray | None) -> None:
    tool = quantizer.Quantizer(str(fp32), asked)
    result = None
    if inputs is not None:
        signature, name, kind = taken()
        rows = [{name: row[None].astype(kind)} for row in inputs]
        result = tool.calibrate({signature: rows})
    tool.quantize(result).export_model(str(path), overwrite=True)


def taken() -> tuple[str, str, Any]:
    """Signature, name and type of the one input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(fp32))
    signature, value = next(iter(interpreter.get_signature_list().items()))
    return signature, value["inputs"][0], interpreter.get_input_details()[0]["dtype"]


inputs = job.calibration()
if job.images:
    inputs = np.moveaxis(inputs, 1, -1).copy()
with job.point("fp32", runtime="litert", note="what its quantizer starts from") as path:
    network = Nhwc(job.network()).eval() if job.images else job.network()
    example = torch.from_numpy(inputs[:1])
    litert_torch.convert(network, (example,)).export(str(path))
with job.point("static-a8w8", runtime="litert", note="static_wi8_ai8") as path:
    quantized(path, recipe.static_wi8_ai8(), inputs)
with job.point("dynamic-w8", runtime="litert", note="dynamic_wi8_afp32") as path:
    quantized(path, recipe.dynamic_wi8_afp32(), None)
