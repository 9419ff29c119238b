"""AIMET-ONNX: cross-layer equalization, AdaRound, int8 activations as unsigned Q/DQ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aimet_onnx
import onnx
from aimet_onnx.cross_layer_equalization import equalize_model
from job import Job, input_name

ITERATIONS = 500  # a layer; its documentation advises 10,000, which do not end in 9 CPU minutes
BATCH = 32

job = Job("aimet-onnx", "onnx", "onnxruntime")
name = input_name(job.onnx)


def rows() -> list[dict[str, Any]]:
    inputs = job.calibration()
    return [{name: inputs[i : i + BATCH]} for i in range(0, len(inputs), BATCH)]


def made(path: Path, *, bits: str, equalize: bool, iterations: int) -> None:
    model = onnx.load(job.onnx)
    if equalize:
        equalize_model(model)
    sim = aimet_onnx.QuantizationSimModel(model, param_type=bits, activation_type="int8")
    if iterations:
        aimet_onnx.apply_adaround(sim, rows(), iterations)
    sim.compute_encodings(rows())
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), str(path))


with job.point("plain-w8", note="no equalization, nearest rounding") as path:
    made(path, bits="int8", equalize=False, iterations=0)
with job.point("cle-w8", note="equalization, nearest rounding") as path:
    made(path, bits="int8", equalize=True, iterations=0)
with job.point("cle-adaround-w8", note=f"{ITERATIONS} iterations a layer") as path:
    made(path, bits="int8", equalize=True, iterations=ITERATIONS)
with job.point("cle-adaround-w4", note=f"4-bit weights, {ITERATIONS} iterations a layer") as path:
    made(path, bits="int4", equalize=True, iterations=ITERATIONS)
