"""How well a model does on the pictures of a darker camera: a worker, away from the loop.

It runs the files that the device ran, with the runtime that the device used, on the test images
as the device's sensor shows them. Nothing is chosen by what it finds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.catalog import process
from controller.examples.fashion_mnist import sensor, workload

_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedJob:
    """Two ONNX files of the same variant, and the gain of the sensor."""

    gain: float
    shipped: str  # path of the pristine file
    calibrated: str  # path of the file as the device runs it


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedAccuracy:
    """Accuracy on the workload's test images, 0..1."""

    gain: float
    images: int
    usual_sensor: float  # as shipped, on the images as they are
    as_shipped: float  # as shipped, on shifted images
    calibrated: float  # calibrated on the device, on shifted images


def handle(job: ShiftedJob, _folder: Path, report: process.Progress) -> ShiftedAccuracy:
    """Measure the three accuracies."""
    images, answers = workload.data("test")
    darker = sensor.sensor_gain(images, job.gain)
    report("as shipped", 0.1)
    usual = _accuracy(job.shipped, images, answers)
    shipped = _accuracy(job.shipped, darker, answers)
    report("calibrated", 0.7)
    return ShiftedAccuracy(
        gain=job.gain, images=len(images), usual_sensor=usual, as_shipped=shipped,
        calibrated=_accuracy(job.calibrated, darker, answers),
    )  # fmt: skip


def _accuracy(path: str, images: NDArray[np.uint8], answers: NDArray[np.int64]) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, fixed = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else _BATCH
    outputs = [
        session.run(None, {name: images[i : i + step] * np.float32(workload.input_scale)})[0]
        for i in range(0, len(images), step)
    ]
    return workload.metric(np.concatenate(outputs), answers)


if __name__ == "__main__":
    from fitment.core import plain

    sys.exit(process.serve(sys.argv, lambda j, f, r: handle(plain.from_plain(ShiftedJob, j), f, r)))
