"""onnxruntime.quantization: its defaults, what its documentation says for x86, and dynamic."""

from __future__ import annotations

from job import Job, static_int8
from onnxruntime.quantization import QuantType, quantize_dynamic

job = Job("onnxruntime", "onnx")
with job.point("static-default", note="QDQ, s8 activations, s8 weights per tensor, minmax") as path:
    static_int8(job.onnx, path, job.calibration())
with job.point("static-u8s8", note="as its documentation says for x86: u8s8 per channel") as path:
    static_int8(
        job.onnx,
        path,
        job.calibration(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
with job.point("dynamic-default", note="u8 activations found at run time, s8 weights") as path:
    quantize_dynamic(job.onnx, str(path))
