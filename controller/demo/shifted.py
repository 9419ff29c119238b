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
from controller.compress import execute
from controller.examples.fashion_mnist import sensor, workload
from fitment.core.patch import InputCorrection

Images = NDArray[np.float32]
_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedJob:
    """Two files of the same variant, and the gain of the sensor."""

    gain: float
    shipped: str  # path of the pristine file
    calibrated: str  # path of the file as the device runs it
    runtime: str = "onnx"
    input: InputCorrection | None = None  # that the device does to what it feeds


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
    scale = np.float32(workload.input_scale)
    seen = darker * scale
    report("as shipped", 0.1)
    usual = _accuracy(job, job.shipped, images * scale, answers)
    shipped = _accuracy(job, job.shipped, seen, answers)
    report("calibrated", 0.7)
    undone = seen if job.input is None else _undone(job.input, seen)
    return ShiftedAccuracy(
        gain=job.gain, images=len(images), usual_sensor=usual, as_shipped=shipped,
        calibrated=_accuracy(job, job.calibrated, undone, answers),
    )  # fmt: skip


def _undone(correction: InputCorrection, seen: Images) -> Images:
    """What the agent does before every run: the formula of the type, in float32."""
    made = seen * np.float32(correction.slope) + np.float32(correction.intercept)
    if correction.exponent == 1.0:
        return made
    bent = np.power(np.maximum(made, np.float32(0)), np.float32(1.0 / correction.exponent))
    span, low = np.float32(correction.high - correction.low), np.float32(correction.low)
    return np.asarray(bent * span + low, dtype=np.float32)


def _accuracy(job: ShiftedJob, path: str, seen: Images, answers: NDArray[np.int64]) -> float:
    outputs = execute.outputs(Path(path).read_bytes(), job.runtime, seen, batch=_BATCH)
    return workload.metric(outputs, answers)


if __name__ == "__main__":
    from fitment.core import plain

    sys.exit(process.serve(sys.argv, lambda j, f, r: handle(plain.from_plain(ShiftedJob, j), f, r)))
