"""Calibration on the device, for better or worse: shifts of the sensor, and what the gate lets by.

An int8 variant is calibrated on unlabelled pictures that a shifted sensor sees, by the worker that
devices run, and asked about test pictures seen by the same sensor. Once through the gate, and once
past it: only so do its mistakes show. No label is used but to count.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
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
from fitment.core.patch import Overlay, PatchManifest
from tests.benchmarks.calibration import costs, subjects
from tests.benchmarks.calibration.sensors import SENSORS, Images, seen
from tests.benchmarks.calibration.subjects import Subject

SEEDS = 5
FULL = "256"  # the draw that every mode is asked about; the others are for the first alone
HARM = 0.005  # half a point: a loss beyond it is harm, a gain beyond it is worth having
ANGLE_LINES = 400  # of the test set
REFUSED = 2_000
"""Test pictures that are asked past the gate, where nothing is applied: each time costs as much as
what is applied, and says only whether refusing was right."""

Say = Callable[[str], None]
Right = NDArray[np.bool_]


def measure(
    out: Path, bundles: Mapping[str, Path], say: Say, *, images: int = 10_000
) -> dict[str, Any]:
    """Both subjects: every sensor, every choice of samples, five seeds.

    Args:
        out: working folder.
        bundles: of the variants ``fp32`` and ``int8-u8s8`` of the example for onnxruntime.
        say: progress.
        images: of Fashion-MNIST's test set, the first ones.
    """
    fashion = subjects.fashion(out / "calibration" / "fashion", bundles, images)
    angle = subjects.angle(out / "calibration" / "angle", min(images, ANGLE_LINES))
    found = {
        subject.name: _subject(subject, out / "calibration", say) for subject in (fashion, angle)
    }
    return {"seeds": SEEDS, "subjects": found, "costs": costs.measure(fashion, out / "costs", say)}


def _subject(subject: Subject, work: Path, say: Say) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    base: dict[str, dict[str, float]] = {}
    for name, sensor in SENSORS.items():
        say(f"calibration: {subject.name}, {name}")
        world = _World(subject, work, subject.fed(seen(subject.test[0], sensor, seed=0)))
        base[name] = {"fp32": float(world.fp32.mean()), "as_shipped": float(world.shipped.mean())}
        for draw in subject.draws:
            for seed in range(SEEDS):
                local = subject.fed(seen(_drawn(subject, draw, seed), sensor, seed=1 + seed))
                modes = subject.modes if draw == FULL else subject.modes[:1]
                found = {mode.value: world.case(mode, local, seed) for mode in modes}
                cases.append({"sensor": name, "samples": draw, "seed": seed, **found})
        # What was measured outlives what breaks later: this takes long.
        kept = {"base": base, "cases": cases}
        (work / f"{subject.name}-so-far.json").write_text(json.dumps(kept, indent=2))
    return {
        "test_images": len(subject.test[0]),
        "base": base,
        "table": [_row(name, draw, cases) for name in SENSORS for draw in subject.draws],
        "gate": {mode.value: _gate(cases, mode.value) for mode in subject.modes},
        "cases": cases,
    }


def _drawn(subject: Subject, draw: str, seed: int) -> Images:
    count, fitting = subject.draws[draw]
    return subject.local[np.random.default_rng(1000 + seed).choice(fitting, count, replace=False)]


class _World:
    """One subject behind one sensor: what is right as shipped, and with any overlay."""

    def __init__(self, subject: Subject, work: Path, pictures: Images) -> None:
        self._subject, self._work, self._pictures = subject, work, pictures
        self._known: dict[tuple[str, int], Right] = {}
        self.fp32 = self._right(subject.fp32, pictures)
        self.shipped = self._right(subject.int8, pictures)

    def case(self, mode: CalibrationMode, local: Images, seed: int) -> dict[str, Any]:
        """Accuracies with the gate and past it, and which answers the overlay changed."""
        folder = self._work / "samples"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        np.save(folder / "seen.npy", local)
        job = CalibrateJob(
            result="", folder=str(self._subject.bundle), samples=str(folder), seed=seed,
            overlay=str(self._work / "overlay.json"), plan=CalibrationPlan(mode=mode),
        )  # fmt: skip
        report = calibrate.handle(job).report
        past = overlay.load(Path(job.overlay)) if report.applied else _past_the_gate(job, local)
        shipped = self.shipped[: None if report.applied else REFUSED]
        now = shipped if past is None else self._with(past, len(shipped))
        gained, lost = int((now & ~shipped).sum()), int((shipped & ~now).sum())
        return {
            "applied": report.applied, "reason": report.reason, "gained": gained, "lost": lost,
            "images": len(now),
            "shipped": float(self.shipped.mean()),
            "always": float(self.shipped.mean()) + (gained - lost) / len(now),
            "gated": float((now if report.applied else self.shipped).mean()),
            "could_be_made": past is not None, "unexplained": report.unexplained,
        }  # fmt: skip

    def _with(self, change: Overlay, count: int) -> Right:
        key = (change.id, count)
        if key not in self._known:
            pictures = self._pictures[:count]
            if change.input is not None:
                pictures = corrected(change.input, pictures)
            file = overlay.apply(self._subject.int8, change)
            self._known[key] = self._right(file, pictures)
        return self._known[key]

    def _right(self, file: bytes, pictures: Images) -> Right:
        outputs = execute.outputs(file, "onnx", pictures, batch=self._subject.batch)
        return np.asarray(outputs.argmax(axis=1) == self._subject.test[1][: len(outputs)])


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


def _row(sensor: str, draw: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [c for c in cases if (c["sensor"], c["samples"]) == (sensor, draw)]
    row: dict[str, Any] = {"sensor": sensor, "samples": draw}
    for mode in (item.value for item in CalibrationMode if item.value in own[0]):
        for way in ("always", "gated"):
            values = [case[mode][way] for case in own]
            row[f"{mode}_{way}"] = {
                "mean": statistics.mean(values), "low": min(values), "high": max(values),
            }  # fmt: skip
        row[f"{mode}_applied"] = sum(case[mode]["applied"] for case in own)
    return row


def _gate(cases: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    """Mistakes of the gate: accepted harm and refused help, beyond half a point.

    A case counts as harmful or helpful by its difference from the file as shipped, image by image;
    ``worst_low`` is the lower end of the 95 % interval of the worst difference behind the gate:
    ``(gained - lost) / n`` with the standard error of paired answers.
    """
    own = [case[mode] for case in cases if mode in case]
    made = [_paired(case) for case in own if case["could_be_made"]]
    harmful = [case for case in made if case["change"] < -HARM]
    helpful = [case for case in made if case["change"] > HARM]
    behind = [case for case in made if case["applied"]]
    worst = min(behind, key=lambda case: case["change"], default=None)
    return {
        "cases": len(own), "applied": len(behind),
        "harmful": len(harmful), "harmful_accepted": sum(c["applied"] for c in harmful),
        "helpful": len(helpful), "helpful_refused": sum(not c["applied"] for c in helpful),
        "worst_change": worst["change"] if worst else 0.0,
        "worst_low": worst["low"] if worst else 0.0,
    }  # fmt: skip


def _paired(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case with its paired difference and the lower end of that one's interval."""
    gained, lost, count = case["gained"], case["lost"], case["images"]
    error = np.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    change = (gained - lost) / count
    return {**case, "change": change, "low": change - 1.96 * float(error)}
