"""What is calibrated: networks for two sets of pictures, and a classifier of lines by others."""

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
from tests.benchmarks.calibration import digits as numbers
from tests.benchmarks.calibration import lines
from tests.benchmarks.calibration.sensors import Images
from tests.benchmarks.compression.subjects.angle import prepare

Labels = NDArray[np.int64]
Stored = NDArray[np.uint8]  # as the files hold them, 0..255
LOCAL_LINES = 2_000
LOCAL_SEED, TEST_SEED = 2_001, 2_002  # of lines that no bound was chosen on
_LIGHT = 0.6 * 255.0  # typical value of a line on light ground


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle that can be calibrated, and pictures in 0..1 to do it on and to ask about."""

    name: str
    bundle: Path
    fp32: bytes
    int8: bytes
    reference: Images  # what the ranges and the reference histogram are of, as the model is fed
    test: tuple[Stored, Labels]
    local: Stored
    draws: Mapping[str, tuple[int, NDArray[np.intp]]]  # name -> how many, of which of `local`
    slope: float = 1.0  # the model is fed slope * picture + level
    level: float = 0.0
    batch: int = 256
    modes: tuple[CalibrationMode, ...] = (
        CalibrationMode.INPUT, CalibrationMode.MOMENTS, CalibrationMode.RANGE,
    )  # fmt: skip

    @staticmethod
    def pictures(stored: Stored) -> Images:
        """In 0..1."""
        return np.asarray(stored.astype(np.float32) / np.float32(255.0), dtype=np.float32)

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
    reference = Subject.pictures(workload.data("calibration_a")[0])
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
    few = np.flatnonzero(np.isin(classes, (0, 1, 2)))
    return Subject(
        name="fashion_mnist", bundle=work / "bundle", fp32=fp32, int8=int8, reference=reference,
        test=(test[:images], answers[:images]), local=pictures,
        draws=_draws(len(classes), "256 of 3 classes", few),
    )  # fmt: skip


def digits(work: Path, images: int) -> Subject:
    """Handwritten digits and a depthwise network, quantized as a fit does it."""
    fp32 = numbers.network(work)
    folder = numbers.fetch(work)
    pictures, classes = numbers.read(folder, "train")
    test, answers = numbers.read(folder, "t10k")
    reference = Subject.pictures(pictures[: numbers.REFERENCE])
    guard = Subject.pictures(pictures[600:664])
    local, kinds = pictures[-numbers.LOCAL :], classes[-numbers.LOCAL :]
    bundle, int8 = _quantized("digits", fp32, reference, guard, work)
    return Subject(
        name="digits", bundle=bundle, fp32=fp32, int8=int8, reference=reference,
        test=(test[:images], answers[:images]), local=local,
        draws=_draws(len(local), "256 of 3 classes", np.flatnonzero(np.isin(kinds, (0, 1, 2)))),
    )  # fmt: skip


def angle(work: Path, count: int) -> Subject:
    """Rendered lines of text, upright or turned; the network is rapidocr's.

    Skewed local lines are on light ground only, as of paper.
    """
    folder = prepare.prepare(work)
    with np.load(folder / "data.npz", allow_pickle=False) as held:
        reference = 2 * Subject.pictures(held["calibration_a_inputs"]) - 1
        guard = 2 * Subject.pictures(held["calibration_b_inputs"][:64]) - 1
    fp32 = (folder / "model.onnx").read_bytes()
    bundle, int8 = _quantized("angle", fp32, reference, guard, work)
    local, _ = lines.drawn(work, seed=LOCAL_SEED, count=LOCAL_LINES)
    test, answers = lines.drawn(work, seed=TEST_SEED, count=count)
    light = np.flatnonzero(np.median(local.reshape(len(local), -1), axis=1) > _LIGHT)
    return Subject(
        name="angle", bundle=bundle, fp32=fp32, int8=int8, reference=reference,
        test=(test, answers), local=local, slope=2.0, level=-1.0, batch=16,
        draws=_draws(len(local), "256 on light ground", light),
        modes=(CalibrationMode.INPUT,),
    )  # fmt: skip


def _draws(
    count: int, skewed: str, few: NDArray[np.intp]
) -> Mapping[str, tuple[int, NDArray[np.intp]]]:
    every = np.arange(count)
    draws = {str(size): (size, every) for size in (256, 64, 16)}
    return {**draws, skewed: (min(256, len(few)), few)}


def _quantized(
    name: str, fp32: bytes, reference: Images, guard: Images, work: Path
) -> tuple[Path, bytes]:
    """The bundle of the int8 variant, calibrated on the reference, and its file."""
    model = onnx.load_from_string(fp32)
    int8 = static.quantize(model, ranges.collect(model, reference), scheme="u8s8")
    content = int8.SerializeToString(deterministic=True)
    own, float_ones = (execute.outputs(file, "onnx", guard, batch=1) for file in (content, fp32))
    chosen = golden.choose(guard, own, float_ones, scheme="u8s8")
    request = bundles.BundleRequest(
        name="int8-u8s8", model=name, version="1", format="onnx", runtime="onnx", scheme="u8s8",
        artifact=content, io=execute.io_spec(content, "onnx"), golden_inputs=chosen.inputs,
        golden_outputs=chosen.outputs, golden_reference=chosen.reference,
        tolerance=chosen.tolerance, patch=calibration.stem_patch(model, content, reference),
    )  # fmt: skip
    return bundles.build(request, work / "bundle").folder, content
