"""Calibration on the device, for better or worse: shifts of the sensor, and what the gate lets by.

The int8 variant of the example is calibrated on unlabelled images that a shifted sensor sees, by
the worker that devices run, and asked about test images seen by the same sensor. Once through the
gate, and once past it: only so do its mistakes show. No label is used but to count.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from agent.jobs import CalibrateJob
from agent.workers import calibrate, installed, overlay, shift
from controller.compress import calibration, execute
from controller.examples.fashion_mnist import workload
from fitment.core import digest, plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest
from fitment.core.deployment import CalibrationMode, CalibrationPlan
from fitment.core.patch import PatchManifest

Images = NDArray[np.float32]
Sensor = Callable[[Images, np.random.Generator], Images]

SEEDS = 5
HARM = 0.005  # half a point: a loss beyond it is harm, a gain beyond it is worth having

SENSORS: Mapping[str, Sensor] = {
    # what the sensor makes of values in 0..1; nothing is clipped or rounded unless it is said
    "clean": lambda x, _rng: x,
    "gain x0.1": lambda x, _rng: 0.1 * x,
    "gain x4": lambda x, _rng: 4.0 * x,
    "gain x4 clipped": lambda x, _rng: np.minimum(4.0 * x, 1.0),
    "contrast x0.3": lambda x, _rng: 0.3 * (x - 0.5) + 0.5,
    "brightness +0.3": lambda x, _rng: x + 0.3,
    "gamma 0.45": lambda x, _rng: x**0.45,
    "gamma 2.2": lambda x, _rng: x**2.2,
    "fog": lambda x, _rng: 0.3 * x + 0.6,
    "invert": lambda x, _rng: 1.0 - x,
    "noise 0.15": lambda x, rng: x + 0.15 * rng.standard_normal(x.shape, dtype=np.float32),
}
SAMPLES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    # how many local images, of which classes
    "256": (256, tuple(range(10))),
    "64": (64, tuple(range(10))),
    "256 of 3 classes": (256, (0, 1, 2)),
}


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every case needs."""

    bundle: Path
    fp32: bytes
    int8: bytes
    work: Path
    test: tuple[Images, NDArray[np.int64]]
    local: tuple[Images, NDArray[np.int64]]


def measure(
    out: Path, bundles: Mapping[str, Path], say: Callable[[str], None], *, images: int = 10_000
) -> dict[str, Any]:
    """Every sensor, every choice of samples, five seeds.

    Args:
        out: working folder.
        bundles: of the variants ``fp32`` and ``int8-u8s8`` for onnxruntime.
        say: progress.
        images: of the test set, the first ones.
    """
    bench = _prepare(out / "calibration", bundles, images)
    cases: list[dict[str, Any]] = []
    base: dict[str, dict[str, float]] = {}
    for name, sensor in SENSORS.items():
        say(f"calibration: {name}")
        seen = _seen(bench.test[0], sensor, seed=0)
        base[name] = {
            "fp32": _accuracy(bench, bench.fp32, seen),
            "as_shipped": _accuracy(bench, bench.int8, seen),
        }
        for samples in SAMPLES:
            for seed in range(SEEDS):
                found = _case(bench, sensor, seen, samples, seed, base[name]["as_shipped"])
                cases.append({"sensor": name, "samples": samples, "seed": seed, **found})
    return {
        "test_images": len(bench.test[0]),
        "seeds": SEEDS,
        "base": base,
        "table": [_row(name, samples, cases) for name in SENSORS for samples in SAMPLES],
        "gate": _gate(cases),
        "cases": cases,
    }


def _prepare(work: Path, bundles: Mapping[str, Path], images: int) -> _Bench:
    """The int8 bundle with what calibration needs, as a fit for such a profile makes it."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(bundles["int8-u8s8"], work / "bundle")
    bundle = installed.read(work / "bundle")
    fp32 = installed.read(bundles["fp32"]).artifact.read_bytes()
    int8 = bundle.artifact.read_bytes()
    reference = _real(workload.data("calibration_a")[0])
    made = calibration.stem_patch(onnx.load_from_string(fp32), int8, reference)
    if made is None:
        raise RuntimeError("the variant has no first layer that can be patched")
    (work / "bundle" / calibration.PROBE_NAME).write_bytes(made.probe_graph)
    (work / "bundle" / "calibration.json").write_bytes(digest.canonical(made.manifest))
    manifest: BundleManifest = replace(bundle.manifest, calibration="calibration.json")
    (work / "bundle" / MANIFEST_NAME).write_bytes(digest.canonical(manifest))
    test, answers = workload.data("test")
    local, classes = workload.data("train")
    return _Bench(
        bundle=work / "bundle", fp32=fp32, int8=int8, work=work,
        test=(_real(test[:images]), answers[:images]),
        local=(_real(local[-8192:]), classes[-8192:]),
    )  # fmt: skip


def _real(images: NDArray[Any]) -> Images:
    return images.astype(np.float32) * np.float32(workload.input_scale)


def _seen(images: Images, sensor: Sensor, *, seed: int) -> Images:
    return np.asarray(sensor(images, np.random.default_rng(seed)), dtype=np.float32)


def _accuracy(bench: _Bench, artifact: bytes, seen: Images) -> float:
    return workload.metric(execute.outputs(artifact, "onnx", seen), bench.test[1])


def _case(
    bench: _Bench, sensor: Sensor, seen: Images, samples: str, seed: int, shipped: float
) -> dict[str, Any]:
    """Accuracies with the gate and past it, in both modes."""
    folder = bench.work / "samples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    np.save(folder / "seen.npy", _local(bench, sensor, samples, seed))
    found: dict[str, Any] = {"shipped": shipped}
    for mode in (CalibrationMode.MOMENTS, CalibrationMode.RANGE):
        job = CalibrateJob(
            result="", folder=str(bench.bundle), samples=str(folder), seed=seed,
            overlay=str(bench.work / "overlay.json"), plan=CalibrationPlan(mode=mode),
        )  # fmt: skip
        report = calibrate.handle(job).report
        past = _past_the_gate(bench, job)
        always = shipped if past is None else _accuracy(bench, past, seen)
        gated = always if report.applied else shipped
        found[mode.value] = {
            "applied": report.applied, "reason": report.reason, "always": always, "gated": gated,
            "could_be_made": past is not None, "unexplained": report.unexplained,
        }  # fmt: skip
    return found


def _local(bench: _Bench, sensor: Sensor, samples: str, seed: int) -> Images:
    count, classes = SAMPLES[samples]
    rng = np.random.default_rng(1000 + seed)
    fitting = np.flatnonzero(np.isin(bench.local[1], classes))
    return _seen(bench.local[0][rng.choice(fitting, count, replace=False)], sensor, seed=1 + seed)


def _past_the_gate(bench: _Bench, job: CalibrateJob) -> bytes | None:
    """The file as the same arithmetic makes it when nobody asks whether it should."""
    bundle = installed.read(bench.bundle)
    content = json.loads((bench.bundle / "calibration.json").read_bytes())
    patch = plain.from_plain(PatchManifest, content)
    local = np.load(Path(job.samples) / "seen.npy")
    material = calibrate._Material(job=job, bundle=bundle, patch=patch, local=local)
    found = shift.compare(patch.input_reference, shift.histogram(local))
    stem = patch.stem
    if stem is None:
        return None
    try:
        if job.plan.mode is CalibrationMode.RANGE:
            writes, _ = calibrate._range_writes(material, stem)
        else:
            writes, _ = calibrate._moment_writes(material, stem, found)
    except calibrate._Refused:  # arithmetic that cannot be stored, or beyond every bound
        return None
    return overlay.apply(bench.int8, overlay.make(patch.artifact_sha256, writes))


def _row(sensor: str, samples: str, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [c for c in cases if (c["sensor"], c["samples"]) == (sensor, samples)]
    row: dict[str, Any] = {"sensor": sensor, "samples": samples}
    for mode in ("moments", "range"):
        for way in ("always", "gated"):
            values = [case[mode][way] for case in own]
            row[f"{mode}_{way}"] = {
                "mean": statistics.mean(values), "low": min(values), "high": max(values),
            }  # fmt: skip
        row[f"{mode}_applied"] = sum(case[mode]["applied"] for case in own)
    return row


def _gate(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mistakes of the gate, by mode: accepted harm, and refused help.

    ``case[mode]["always"]`` is held against the same file as shipped, on the same images.
    """
    found = {}
    for mode in ("moments", "range"):
        harmful = [c[mode] for c in cases if c[mode]["always"] < c["shipped"] - HARM]
        helpful = [c[mode] for c in cases if c[mode]["always"] > c["shipped"] + HARM]
        found[mode] = {
            "harmful": len(harmful),
            "harmful_accepted": sum(case["applied"] for case in harmful),
            "helpful": len(helpful),
            "helpful_refused": sum(not case["applied"] for case in helpful),
            "worst_change": min(c[mode]["gated"] - c["shipped"] for c in cases),
        }
    return found
