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
        signature, names = next(iter(tool_signatures().items()))
        result = tool.calibrate({signature: [{names[0]: row[None]} for row in inputs]})
    tool.quantize(result).export_model(str(path), overwrite=True)


def tool_signatures() -> dict[str, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_path=str(fp32)).get_signature_list()
    return {key: list(value["inputs"]) for key, value in found.items()}


channels_last = np.moveaxis(job.calibration(), 1, -1).copy()
with job.point("fp32", runtime="litert", note="what its quantizer starts from") as path:
    network = Nhwc(job.network()).eval()
    example = torch.from_numpy(channels_last[:1])
    litert_torch.convert(network, (example,)).export(str(path))
with job.point("static-a8w8", runtime="litert", note="static_wi8_ai8") as path:
    quantized(path, recipe.static_wi8_ai8(), channels_last)
with job.point("dynamic-w8", runtime="litert", note="dynamic_wi8_afp32") as path:
    quantized(path, recipe.dynamic_wi8_afp32(), None)
