"""One subject behind one sensor: what is right as shipped, and with what calibration makes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.jobs import CalibrateJob
from agent.workers import calibrate, gate, installed, overlay, shift
from agent.workers.inputs import corrected
from controller.compress import execute
from fitment.core import plain
from fitment.core.deployment import CalibrationMode, CalibrationPlan
from fitment.core.patch import InputCorrection, Overlay, PatchManifest
from tests.benchmarks.calibration.sensors import Images, Sensor, seen
from tests.benchmarks.calibration.subjects import Subject

REFUSED = 1_000
"""Test inputs that are asked past the gate, where nothing is applied: each time costs as much as
what is applied, and says only whether refusing was right."""

FEWEST = 16  # samples that a plan lets by here; unless a release says so, fewer than 64 are refused
_CHUNK = 1_000  # of test inputs, since memory is short

Right = NDArray[np.bool_]


class World:
    """Answers to the test inputs as the sensor shows them, each asked once."""

    def __init__(self, subject: Subject, sensor: Sensor, work: Path) -> None:
        self._subject, self._sensor, self._work = subject, sensor, work
        self._known: dict[tuple[str, int], Right] = {}
        every = len(subject.test[0])
        self.fp32 = self._right(subject.fp32, every)
        self.shipped = self._right(subject.int8, every)

    def case(self, mode: CalibrationMode, local: Images, seed: int) -> dict[str, Any]:
        """Accuracies with the gate and past it, and which answers the overlay changed."""
        job = self._job(mode, local, seed)
        report = calibrate.handle(job).report
        change = overlay.load(Path(job.overlay)) if report.applied else _past_the_gate(job, local)
        shipped = self.shipped[: None if report.applied else REFUSED]
        now = shipped if change is None else self._with(change, len(shipped))
        gained, lost = int((now & ~shipped).sum()), int((shipped & ~now).sum())
        return {
            "applied": report.applied, "reason": report.reason, "gained": gained, "lost": lost,
            "asked": len(now),
            "shipped": float(self.shipped.mean()),
            "always": float(self.shipped.mean()) + (gained - lost) / len(now),
            "gated": float((now if report.applied else self.shipped).mean()),
            "could_be_made": change is not None, "unexplained": report.unexplained,
        }  # fmt: skip

    def _job(self, mode: CalibrationMode, local: Images, seed: int) -> CalibrateJob:
        folder = self._work / "samples"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        np.save(folder / "seen.npy", local)
        return CalibrateJob(
            result="", folder=str(self._subject.bundle), samples=str(folder), seed=seed,
            overlay=str(self._work / "overlay.json"),
            plan=CalibrationPlan(mode=mode, min_samples=FEWEST),
        )  # fmt: skip

    def _with(self, change: Overlay, count: int) -> Right:
        key = (change.id, count)
        if key not in self._known:
            file = overlay.apply(self._subject.int8, change)
            self._known[key] = self._right(file, count, change.input)
        return self._known[key]

    def _right(self, file: bytes, count: int, undone: InputCorrection | None = None) -> Right:
        parts = []
        for inputs, answers in self._fed(count):
            asked = inputs if undone is None else corrected(undone, inputs)
            outputs = execute.outputs(file, "onnx", asked, batch=self._subject.batch)
            parts.append(outputs.argmax(axis=1) == answers)
        return np.concatenate(parts)

    def _fed(self, count: int) -> Iterator[tuple[Images, NDArray[np.int64]]]:
        inputs, answers = self._subject.test
        for start in range(0, min(count, len(inputs)), _CHUNK):
            chosen = slice(start, min(start + _CHUNK, count))
            pictures = self._subject.pictures(inputs[chosen])
            yield self._subject.fed(seen(pictures, self._sensor, seed=start)), answers[chosen]


def _past_the_gate(job: CalibrateJob, local: Images) -> Overlay | None:
    """The overlay as the same arithmetic makes it when nobody asks whether it should."""
    bundle = installed.read(job.folder)
    content = json.loads((bundle.folder / bundle.manifest.calibration).read_bytes())
    patch = plain.from_plain(PatchManifest, content)
    if patch.stem is None and job.plan.mode is not CalibrationMode.INPUT:
        return None
    loaded = installed.load(bundle, job.setting.options)
    material = calibrate._material(job, bundle, patch, loaded.session.inputs[0], local)
    toned = job.plan.mode is CalibrationMode.INPUT
    found = shift.compare(patch.input_reference, material.histogram, toned=toned)
    steady = gate.steadiness(patch.input_reference, local, found.exponent)
    if found.gain <= 0 or not np.isfinite(steady.gain):
        return None
    undo = gate.correction(
        found, steady, patch.input_reference, tensor=material.tensor.name, samples=len(local)
    )
    try:
        return calibrate.propose(material, found, undo).overlay
    except calibrate._Refused:  # arithmetic that cannot be stored, or beyond every bound
        return None
