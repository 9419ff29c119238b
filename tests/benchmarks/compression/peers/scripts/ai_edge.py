"""litert-torch and ai-edge-quantizer: PyTorch to `.tflite` to int8, their own recipes."""

from __future__ import annotations

from ai_edge_quantizer import recipe
from edge import calibration, convert, quantized
from job import Job

job = Job("ai-edge-quantizer", "litert-torch", "ai-edge-litert")
fp32 = job.out / "fp32.tflite"

with job.point("fp32", runtime="litert", note="what its quantizer starts from") as path:
    convert(job.network(), job, path)
with job.point("static-a8w8", runtime="litert", note="static_wi8_ai8") as path:
    quantized(fp32, path, recipe.static_wi8_ai8(), calibration(job))
with job.point("dynamic-w8", runtime="litert", note="dynamic_wi8_afp32") as path:
    quantized(fp32, path, recipe.dynamic_wi8_afp32(), None)
