"""Calibration on a real Q/DQ network: what is corrected, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.jobs import CalibrateJob
from agent.workers import calibrate, installed, overlay
from agent.workers.child import JobError
from fitment.core.deployment import CalibrationMode, CalibrationPlan, CalibrationReport
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
    ("a brighter one", lambda x: 2.5 * x + 0.2, 2.5, 0.2),
    ("fog", lambda x: 0.4 * x + 0.5, 0.4, 0.5),
    ("a black level below zero", lambda x: 0.8 * x - 0.3, 0.8, -0.3),
]


def answers(bundle: Path, job: CalibrateJob, inputs: np.ndarray) -> np.ndarray:
    """Of what runs: the file and its overlay."""
    loaded = installed.load(installed.read(bundle), job.setting.options, overlay=job.overlay)
    return installed.answers(loaded.session, inputs)


@pytest.mark.parametrize("mode", [CalibrationMode.MOMENTS, CalibrationMode.INPUT])
@pytest.mark.parametrize(
    ("name", "change", "gain", "offset"), SHIFTS, ids=[row[0] for row in SHIFTS]
)
def test_an_affine_shift_is_corrected(
    bundle: Path, name: str, change: Change, gain: float, offset: float, mode: CalibrationMode
) -> None:
    local = models.pictures(128, seed=21)
    job = job_for(bundle, change(local).astype(np.float32), mode=mode)
    report = calibrated(job)
    assert report.applied, report.reason
    assert report.gain == pytest.approx(gain, rel=0.1)
    assert report.offset == pytest.approx(offset, abs=0.05)
    assert report.unexplained is not None
    assert report.unexplained < 0.2

    clear = models.pictures(200, seed=22)
    wished = models.run(models.network_fp32(), clear)
    pristine = (bundle / "model.onnx").read_bytes()
    shifted = change(clear).astype(np.float32)
    before, after = models.run(pristine, shifted), answers(bundle, job, shifted)
    error_before = np.abs(before - wished).mean()
    error_after = np.abs(after - wished).mean()
    assert error_after < 0.25 * error_before
    assert np.mean(after.argmax(1) == wished.argmax(1)) > 0.9


def test_a_tone_is_undone_before_the_model(bundle: Path) -> None:
    def change(pictures: np.ndarray) -> np.ndarray:
        return pictures**2.0

    local = change(models.pictures(256, seed=21)).astype(np.float32)
    job = job_for(bundle, local, mode=CalibrationMode.INPUT)
    report = calibrated(job)
    assert report.applied, report.reason
    assert report.exponent == pytest.approx(2.0, rel=0.1)
    clear = models.pictures(200, seed=22)
    wished = models.run(models.network_fp32(), clear)
    before = np.abs(models.run((bundle / "model.onnx").read_bytes(), change(clear)) - wished)
    after = np.abs(answers(bundle, job, change(clear).astype(np.float32)) - wished)
    assert after.mean() < 0.25 * before.mean()


def test_a_shift_that_makes_the_model_surer_is_left_alone(bundle: Path) -> None:
    """It is explained well; but few answers would change, and the model is less sure of those."""
    local = models.pictures(256, seed=21) ** 0.5
    report = calibrated(job_for(bundle, local.astype(np.float32), mode=CalibrationMode.INPUT))
    assert not report.applied
    assert "nothing shows that the model would be righter" in report.reason
    assert report.exponent == pytest.approx(0.5, rel=0.1)


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


def _foggy_noise(pictures: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.05, pictures.shape)
    return 0.4 * pictures + 0.5 + noise


def _clipped(pictures: np.ndarray) -> np.ndarray:
    return np.minimum(pictures + 0.6, 0.8)


def _darkening(pictures: np.ndarray) -> np.ndarray:
    fading = np.linspace(0.35, 0.2, len(pictures)) ** 2
    return pictures * fading.reshape(-1, 1, 1, 1)


REFUSED: list[tuple[str, Change, str]] = [
    ("unshifted", lambda x: x, "look like the reference"),
    ("night", _night, "almost no contrast"),
    ("a noisy night", _loud_night, "no more than noise"),
    ("one repeated picture", _repeated, "samples differ"),
    ("one scene with noise", _repeated_with_noise, "same scene"),
    ("inverted", lambda x: 1.0 - x, "look inverted"),
    ("clipped to white", _white, "explain the shift"),
    ("clipped with an offset", _clipped, "the sensor clips"),
    ("noise", _foggy_noise, "noise|noisy"),
    ("a light that fades", _darkening, "changed meanwhile"),
    ("beyond the bound", lambda x: 40.0 * x, "outside what the release allows"),
    ("too few", lambda x: 0.3 * x[:20], "at least 64 are needed"),
]


@pytest.mark.parametrize("mode", [CalibrationMode.INPUT, CalibrationMode.MOMENTS])
@pytest.mark.parametrize(("name", "change", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_must_not_be_corrected(
    bundle: Path, name: str, change: Change, reason: str, mode: CalibrationMode
) -> None:
    samples = change(models.pictures(128, seed=21)).astype(np.float32)
    report = calibrated(job_for(bundle, samples, mode=mode))
    assert not report.applied
    assert report.samples == len(samples)
    assert re.search(reason, report.reason), report.reason


def test_range_mode_follows_the_inputs_range(tmp_path: Path) -> None:
    """A brighter sensor, and a network whose order of answers no gain changes."""
    models.network_bundle(tmp_path / "bundle", ranges=True, level=0.0, headroom=4.0)
    bundle = tmp_path / "bundle"
    local = (4.0 * models.pictures(128, seed=21)).astype(np.float32)
    report = calibrated(job_for(bundle, local, mode=CalibrationMode.RANGE))
    assert report.applied, report.reason
    assert "range is now" in report.reason
    assert report.agreement_before is not None
    assert report.agreement_after is not None
    assert report.agreement_after > report.agreement_before


def test_range_mode_is_refused_where_the_network_does_not_bear_the_shift(bundle: Path) -> None:
    """Its biases make an order of answers that a gain changes: what follows it follows an error."""
    local = (0.3 * models.pictures(128, seed=21)).astype(np.float32)
    report = calibrated(job_for(bundle, local, mode=CalibrationMode.RANGE))
    assert not report.applied
    assert "no improvement is shown" in report.reason


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
    assert (loaded.overlay, loaded.correction) == (made.id, None)
    picture = models.pictures(1, seed=9)
    assert np.array_equal(models.run(into.read_bytes(), picture), loaded.session.run([picture])[0])
