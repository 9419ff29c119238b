"""Calibration on a real Q/DQ network: what is corrected, and what is refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.jobs import CalibrateJob, RuntimeOptions
from agent.workers import calibrate, installed, moments, overlay
from agent.workers.child import JobError
from agent.workers.runtimes import registry
from agent.workers.shift import Shift
from fitment.core.deployment import CalibrationMode, CalibrationPlan, CalibrationReport
from fitment.core.histogram import Histogram
from fitment.core.patch import PatchManifest
from tests.integration import worker_models as models

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    models.network_bundle(tmp_path / "bundle", ranges=True)
    return tmp_path / "bundle"


def job_for(
    bundle: Path,
    samples: np.ndarray,
    *,
    mode: CalibrationMode = CalibrationMode.MOMENTS,
    max_gain: float = 16.0,
) -> CalibrateJob:
    folder = bundle.parent / "samples"
    folder.mkdir()
    for index in range(0, len(samples), 16):
        np.save(folder / f"{index:04d}.npy", samples[index : index + 16])
    return CalibrateJob(
        result="unused",
        folder=str(bundle),
        samples=str(folder),
        overlay=str(bundle.parent / "overlay.json"),
        plan=CalibrationPlan(mode=mode, max_gain=max_gain),
    )


def calibrated(job: CalibrateJob) -> CalibrationReport:
    report = calibrate.handle(job).report
    assert Path(job.overlay).exists() == report.applied
    assert bool(report.id) == report.applied
    return report


SHIFTS: list[tuple[str, Change, float, float]] = [
    ("a darker sensor", lambda x: 0.3 * x, 0.3, 0.0),
    ("a much darker one", lambda x: 0.1 * x, 0.1, 0.0),
    ("a brighter one", lambda x: 4.0 * x, 4.0, 0.0),
    ("fog", lambda x: 0.4 * x + 0.5, 0.4, 0.5),
    ("a black level below zero", lambda x: 0.8 * x - 0.3, 0.8, -0.3),
]


@pytest.mark.parametrize(
    ("name", "change", "gain", "offset"), SHIFTS, ids=[row[0] for row in SHIFTS]
)
def test_an_affine_shift_is_corrected(
    bundle: Path, name: str, change: Change, gain: float, offset: float
) -> None:
    local = models.pictures(128, seed=21)
    job = job_for(bundle, change(local).astype(np.float32))
    report = calibrated(job)
    assert report.applied, report.reason
    assert report.gain == pytest.approx(gain, rel=0.1)
    assert report.offset == pytest.approx(offset, abs=0.05)
    assert report.unexplained is not None
    assert report.unexplained < 0.2

    clear = models.pictures(200, seed=22)
    wished = models.run(models.network_fp32(), clear)
    pristine = (bundle / "model.onnx").read_bytes()
    patched = overlay.apply(pristine, overlay.load(Path(job.overlay)))
    shifted = change(clear).astype(np.float32)
    before, after = models.run(pristine, shifted), models.run(patched, shifted)
    error_before = np.abs(before - wished).mean()
    error_after = np.abs(after - wished).mean()
    assert error_after < 0.25 * error_before
    assert np.mean(after.argmax(1) == wished.argmax(1)) > 0.9


def test_the_pristine_file_is_never_touched(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    report = calibrated(job_for(bundle, 0.3 * models.pictures(96, seed=4)))
    assert report.applied
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_the_same_samples_give_the_same_overlay(bundle: Path) -> None:
    job = job_for(bundle, 0.3 * models.pictures(96, seed=4))
    first = calibrated(job)
    content = Path(job.overlay).read_bytes()
    assert calibrated(job) == first
    assert Path(job.overlay).read_bytes() == content


def _repeated(pictures: np.ndarray) -> np.ndarray:
    return np.repeat(0.3 * pictures[:1], len(pictures), axis=0)


def _repeated_with_noise(pictures: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.003, pictures.shape)
    return _repeated(pictures) + noise


def _night(pictures: np.ndarray) -> np.ndarray:
    return 0.01 + np.random.default_rng(0).normal(0, 0.002, pictures.shape)


def _loud_night(pictures: np.ndarray) -> np.ndarray:
    return np.abs(np.random.default_rng(0).normal(0, 0.1, pictures.shape))


def _white(pictures: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, 0.9 + pictures)


REFUSED: list[tuple[str, Change, str]] = [
    ("unshifted", lambda x: x, "look like the reference"),
    ("night", _night, "almost no contrast"),
    ("a noisy night", _loud_night, "no more than noise"),
    ("one repeated picture", _repeated, "samples differ"),
    ("one scene with noise", _repeated_with_noise, "same scene"),
    ("inverted", lambda x: 1.0 - x, "look inverted"),
    ("clipped to white", _white, "no affine model"),
    ("beyond the bound", lambda x: 40.0 * x, "outside what the release allows"),
    ("too few", lambda x: 0.3 * x[:20], "at least 64 are needed"),
]


@pytest.mark.parametrize(("name", "change", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_must_not_be_corrected(bundle: Path, name: str, change: Change, reason: str) -> None:
    samples = change(models.pictures(128, seed=21)).astype(np.float32)
    report = calibrated(job_for(bundle, samples))
    assert not report.applied
    assert report.samples == len(samples)
    assert re.search(reason, report.reason), report.reason


def test_range_mode_follows_the_inputs_range(bundle: Path) -> None:
    """A brighter sensor beyond the calibrated range: no moments, only the range."""
    local = (4.0 * models.pictures(128, seed=21)).astype(np.float32)
    job = job_for(bundle, local, mode=CalibrationMode.RANGE)
    report = calibrated(job)
    assert report.applied, report.reason
    patched = overlay.apply((bundle / "model.onnx").read_bytes(), overlay.load(Path(job.overlay)))
    unclipped = np.abs(models.run(patched, local)).max()
    clipped = np.abs(models.run((bundle / "model.onnx").read_bytes(), local)).max()
    assert unclipped != clipped
    assert "range is now" in report.reason


def test_range_mode_without_places_is_refused(tmp_path: Path) -> None:
    models.network_bundle(tmp_path / "bundle", ranges=False)
    job = job_for(tmp_path / "bundle", models.pictures(64, seed=1), mode=CalibrationMode.RANGE)
    assert calibrated(job).reason == "the bundle ships no range places"


def test_a_bundle_without_places_is_refused(tmp_path: Path) -> None:
    models.network_bundle(tmp_path / "bundle", calibration=False)
    report = calibrated(job_for(tmp_path / "bundle", models.pictures(64, seed=1)))
    assert "ships no patch manifest" in report.reason


def test_an_old_overlay_does_not_survive_a_refusal(bundle: Path) -> None:
    job = job_for(bundle, models.pictures(64, seed=1))
    Path(job.overlay).write_text("stale")
    assert not calibrated(job).applied


def test_a_bundle_that_answers_wrong_is_not_built_on(bundle: Path) -> None:
    outputs = np.load(bundle / "golden_outputs.npy")
    np.save(bundle / "golden_outputs.npy", outputs + 1.0)
    with pytest.raises(JobError, match="answers wrong") as caught:
        calibrate.handle(job_for(bundle, 0.3 * models.pictures(96, seed=4)))
    assert caught.value.code == "golden_failed"


def test_samples_of_another_shape_are_refused(bundle: Path) -> None:
    with pytest.raises(JobError, match="samples have shape") as caught:
        calibrate.handle(job_for(bundle, np.zeros((64, 3, 8, 8), dtype=np.float32)))
    assert caught.value.code == "samples_invalid"


def test_an_overlay_is_bound_to_its_file(bundle: Path) -> None:
    job = job_for(bundle, 0.3 * models.pictures(96, seed=4))
    calibrated(job)
    made = overlay.load(Path(job.overlay))
    with pytest.raises(JobError, match="made for"):
        overlay.apply(models.network_fp32(), made)
    into = bundle.parent / "patched.onnx"
    overlay.materialize(bundle / "model.onnx", Path(job.overlay), into)
    loaded = installed.load(installed.read(bundle), job.setting.options, overlay=job.overlay)
    assert loaded.overlay == made.id
    picture = models.pictures(1, seed=9)
    assert np.array_equal(models.run(into.read_bytes(), picture), loaded.session.run([picture])[0])


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1])
def test_a_first_layer_that_pads_is_told_from_its_answers(padding: int) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 3, 3], [0.5] * 9 + [-1.0] * 9)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[padding] * 4)
    inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    outputs = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, None, None])
    graph = helper.make_graph([node], "stem", [inputs], [outputs], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    probe = registry.get("onnx").load(made.SerializeToString(), RuntimeOptions())
    assert moments.pads(probe) is bool(padding)


@pytest.mark.parametrize(
    ("gain", "offset", "pads", "refused"),
    [
        (4.0, 0.0, True, False),
        (1.0, 0.3, True, False),
        (0.3, 0.35, True, True),  # contrast: black lies 1.2 ranges beside zero
        (0.3, 0.6, True, True),  # fog
        (0.3, -0.6, True, True),
        (0.3, 0.6, False, False),  # nothing is padded, so all of it is undone
    ],
)
def test_a_black_beside_zero_is_refused_where_padding_stays(
    gain: float, offset: float, *, pads: bool, refused: bool
) -> None:
    found = Shift(drift=0.3, gain=gain, offset=offset, unexplained=0.05, inverted=False)
    reference = Histogram(low=0.0, high=1.0, counts=(1, 1))
    patch = PatchManifest(artifact_sha256="", input_reference=reference)
    expected = pytest.raises(calibrate._Refused, match="pads with zeros")
    with expected if refused else contextlib.nullcontext():
        calibrate._check_black(found, patch, pads=pads)
