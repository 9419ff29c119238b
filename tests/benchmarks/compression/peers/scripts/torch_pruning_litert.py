"""Torch-Pruning's fine-tuned network, by litert-torch and ai-edge-quantizer, for LiteRT."""

from __future__ import annotations

import torch
from ai_edge_quantizer import recipe
from edge import calibration, convert, quantized
from job import Job

job = Job("ai-edge-quantizer", "litert-torch", "ai-edge-litert")
fp32 = job.out / "fp32-pruned50.tflite"
job.network()  # its class, for what was saved whole
with job.point("fp32-pruned50", labels=True, runtime="litert", note="of torch-pruning") as path:
    kept = job.out.parent / "torch-pruning" / "pruned.pt"
    convert(torch.load(kept, weights_only=False).eval(), job, path)
with job.point("int8-pruned50", labels=True, runtime="litert", note="static_wi8_ai8") as path:
    quantized(fp32, path, recipe.static_wi8_ai8(), calibration(job))
