"""What the points on LiteRT share: PyTorch to `.tflite`, then ai-edge-quantizer's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer
from job import Job


class Nhwc(torch.nn.Module):
    """Channels last at the input, as LiteRT's kernels want them."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images.permute(0, 3, 1, 2))
        return found


def calibration(job: Job) -> np.ndarray:
    """Inputs as the converted file takes them."""
    inputs = job.calibration()
    return np.moveaxis(inputs, 1, -1).copy() if job.images else inputs


def convert(network: torch.nn.Module, job: Job, path: Path) -> None:
    """A float `.tflite` of a network in eval mode."""
    taken = Nhwc(network).eval() if job.images else network
    litert_torch.convert(taken, (torch.from_numpy(calibration(job)[:1]),)).export(str(path))


def quantized(fp32: Path, path: Path, asked: Any, inputs: np.ndarray | None) -> None:
    """A file by one of ai-edge-quantizer's recipes; calibrated where there are inputs."""
    tool = quantizer.Quantizer(str(fp32), asked)
    result = None
    if inputs is not None:
        signature, name, kind = _taken(fp32)
        rows = [{name: row[None].astype(kind)} for row in inputs]
        result = tool.calibrate({signature: rows})
    tool.quantize(result).export_model(str(path), overwrite=True)


def _taken(fp32: Path) -> tuple[str, str, Any]:
    """Signature, name and type of the one input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(fp32))
    signature, value = next(iter(interpreter.get_signature_list().items()))
    return signature, value["inputs"][0], interpreter.get_input_details()[0]["dtype"]
