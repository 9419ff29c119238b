"""NNCF on ONNX: `quantize`, and `quantize_with_accuracy_control` (labels judge, none train)."""

from __future__ import annotations

from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
from job import Job, input_name

MAX_DROP = 0.01  # as Fitment's budget

job = Job("nncf", "onnx", "onnxruntime")
name = input_name(job.onnx)


def calibration() -> Any:
    return nncf.Dataset([{name: row[None]} for row in job.calibration()])


def validation() -> Any:
    inputs, labels = job.guard()
    rows = zip(inputs, labels, strict=True)
    return nncf.Dataset([(x[None], int(y)) for x, y in rows], lambda row: {name: row[0]})


def judge(model: Any, rows: Any) -> tuple[float, list[float]]:
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    right = [float(session.run(None, {name: x})[0].argmax() == y) for x, y in rows]
    return float(np.mean(right)), right


with job.point("quantize", note="defaults: performance preset, fast bias correction") as path:
    onnx.save(nncf.quantize(onnx.load(job.onnx), calibration()), str(path))
with job.point("quantize-mixed", note="mixed preset: asymmetric activations") as path:
    mixed = nncf.QuantizationPreset.MIXED
    onnx.save(nncf.quantize(onnx.load(job.onnx), calibration(), preset=mixed), str(path))
with job.point("accuracy-control", labels=True, note="labels of the guard set judge") as path:
    made = nncf.quantize_with_accuracy_control(
        onnx.load(job.onnx), calibration(), validation(), judge, max_drop=MAX_DROP
    )
    onnx.save(made, str(path))
