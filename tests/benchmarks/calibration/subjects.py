"""What is calibrated: Fashion-MNIST's network, and a classifier of text lines made by others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from agent.workers import installed
from controller.compress import bundle as bundles
from controller.compress import calibration, execute, golden
from controller.compress.quantize import ranges, static
from controller.examples.fashion_mnist import workload
from fitment.core import digest
from fitment.core.bundle import MANIFEST_NAME
from fitment.core.deployment import CalibrationMode
from tests.benchmarks.calibration.sensors import Images
from tests.benchmarks.compression.subjects.angle import prepare

Labels = NDArray[np.int64]
_LIGHT = 0.6  # of 0..1: typical value of a line on light ground


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle that can be calibrated, and pictures in 0..1 to do it on and to ask about."""

    name: str
    bundle: Path
    fp32: bytes
    int8: bytes
    reference: Images  # what the ranges and the reference histogram are of, as the model is fed
    test: tuple[Images, Labels]
    local: Images
    draws: Mapping[str, tuple[int, NDArray[np.intp]]]  # name -> how many, of which of `local`
    slope: float = 1.0  # the model is fed slope * picture + level
    level: float = 0.0
    batch: int = 256
    modes: tuple[CalibrationMode, ...] = (
        CalibrationMode.INPUT, CalibrationMode.MOMENTS, CalibrationMode.RANGE,
    )  # fmt: skip

    def fed(self, pictures: Images) -> Images:
        return np.asarray(self.slope * pictures + self.level, dtype=np.float32)


def fashion(work: Path, made: Mapping[str, Path], images: int) -> Subject:
    """The example's int8 bundle with what calibration needs, as a fit for such a profile makes it.

    Local pictures are of the training file, of which neither the reference nor a bound is.
    """
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(made["int8-u8s8"], work / "bundle")
    bundle = installed.read(work / "bundle")
    fp32, int8 = installed.read(made["fp32"]).artifact.read_bytes(), bundle.artifact.read_bytes()
    reference = _real(workload.data("calibration_a")[0])
    patch = calibration.stem_patch(onnx.load_from_string(fp32), int8, reference)
    if patch is None:
        raise RuntimeError("the variant has no first layer that can be patched")
    (work / "bundle" / calibration.PROBE_NAME).write_bytes(patch.probe_graph)
    (work / "bundle" / bundles.CALIBRATION_NAME).write_bytes(digest.canonical(patch.manifest))
    manifest = replace(bundle.manifest, calibration=bundles.CALIBRATION_NAME)
    (work / "bundle" / MANIFEST_NAME).write_bytes(digest.canonical(manifest))
    test, answers = workload.data("test")
    pictures, classes = workload.data("train")
    pictures, classes = pictures[-8192:], classes[-8192:]
    every = np.arange(len(classes))
    return Subject(
        name="fashion_mnist", bundle=work / "bundle", fp32=fp32, int8=int8, reference=reference,
        test=(_real(test[:images]), answers[:images]), local=_real(pictures),
        draws={
            "256": (256, every), "64": (64, every),
            "256 of 3 classes": (256, np.flatnonzero(np.isin(classes, (0, 1, 2)))),
        },
    )  # fmt: skip


def angle(work: Path, lines: int) -> Subject:
    """Rendered lines of text, upright or turned; the network is rapidocr's.

    Local lines are the subject's guard set. Skewed ones are on light ground only, as of paper.
    """
    folder = prepare.prepare(work)
    with np.load(folder / "data.npz", allow_pickle=False) as held:
        pictures = {n: held[f"{n}_inputs"].astype(np.float32) / 255 for n in prepare.COUNTS}
        answers = held["test_labels"]
    reference = np.asarray(2.0 * pictures["calibration_a"] - 1.0, dtype=np.float32)
    guard = np.asarray(2.0 * pictures["calibration_b"][:64] - 1.0, dtype=np.float32)
    fp32 = (folder / "model.onnx").read_bytes()
    model = onnx.load_from_string(fp32)
    int8 = static.quantize(model, ranges.collect(model, reference), scheme="u8s8")
    content = int8.SerializeToString(deterministic=True)
    own, float_ones = (execute.outputs(file, "onnx", guard, batch=1) for file in (content, fp32))
    chosen = golden.choose(guard, own, float_ones, scheme="u8s8")
    request = bundles.BundleRequest(
        name="int8-u8s8", model="angle", version="1", format="onnx", runtime="onnx", scheme="u8s8",
        artifact=content, io=execute.io_spec(content, "onnx"), golden_inputs=chosen.inputs,
        golden_outputs=chosen.outputs, golden_reference=chosen.reference,
        tolerance=chosen.tolerance, patch=calibration.stem_patch(model, content, reference),
    )  # fmt: skip
    local = pictures["calibration_b"]
    every, light = np.arange(len(local)), np.median(local.reshape(len(local), -1), axis=1) > _LIGHT
    few = int(light.sum())
    return Subject(
        name="angle", bundle=bundles.build(request, work / "bundle").folder, fp32=fp32,
        int8=content, reference=reference, test=(pictures["test"][:lines], answers[:lines]),
        local=local, slope=2.0, level=-1.0, batch=16,
        modes=(CalibrationMode.INPUT,),  # of the others one case takes seconds there
        draws={
            "256": (256, every), "64": (64, every),
            "128 on light ground": (min(128, few), np.flatnonzero(light)),
        },
    )  # fmt: skip


def _real(images: NDArray[np.uint8]) -> Images:
    return images.astype(np.float32) * np.float32(workload.input_scale)
