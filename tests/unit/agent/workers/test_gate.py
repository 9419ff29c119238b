"""The gate on a table of shifts: what is let by, and by which evidence the rest is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from agent.workers import gate, inputs, shift
from agent.workers.gate import Steadiness
from agent.workers.shift import Shift
from agent.workers.texture import texture
from fitment.core.patch import PatchManifest
from tests.integration import worker_models as models

Change = Callable[[np.ndarray], np.ndarray]

USUAL = models.pictures(256, seed=11)
PATCH = PatchManifest(
    artifact_sha256="", input_reference=shift.histogram(USUAL), texture=texture(USUAL)
)
LOCAL = models.pictures(160, seed=12)
STEADY = Steadiness(gain=0.0, offset=0.0)


def _noise(level: float) -> np.ndarray:
    return np.random.default_rng(3).normal(0, level, LOCAL.shape)


def _blurred(x: np.ndarray) -> np.ndarray:
    wide = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    shifted = [wide[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
    return np.mean(shifted, axis=0)


def verdict(change: Change) -> str:
    """The first reason, in the order in which calibration asks; empty when there is none."""
    samples = change(LOCAL).astype(np.float32)
    reference, local = PATCH.input_reference, shift.histogram(samples)
    found = shift.compare(reference, local, toned=True)
    refused = gate.reason(found, PATCH, local, max_gain=16.0)
    if refused:
        return refused
    steady = gate.steadiness(reference, samples, found.exponent)
    refused = gate.unsteady(found, steady, reference)
    if refused:
        return refused
    undo = gate.correction(found, steady, reference, tensor="x", samples=len(samples))
    refused = gate.smoothness(undo, samples, PATCH, "NCHW")
    if not refused:  # it must also be right
        assert np.abs(inputs.corrected(undo, samples) - LOCAL).mean() < 0.03
    return refused


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 0.1 * x,
        lambda x: 0.5 * x,
        lambda x: 9.0 * x,
        lambda x: x + 0.3,
        lambda x: x - 0.2,
        lambda x: 0.25 * x + 0.7,
        lambda x: x**0.5,
        lambda x: x**1.8,
        lambda x: 0.5 * x + 0.001 * _noise(1.0),
    ],
)
def test_what_a_sensor_did_without_loss_is_let_by(change: Change) -> None:
    assert verdict(change) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: 1.0 - x, "look inverted"),
        (lambda x: 0.9 - 0.5 * x, "look inverted"),
        (lambda x: np.minimum(x + 0.6, 0.8), "sensor clips"),
        (lambda x: np.minimum(6.0 * x, 1.0), "explain the shift|sensor clips"),
        (lambda x: 0.5 * x + _noise(0.1), "noise|explain the shift"),
        (lambda x: 4.0 * x + _noise(0.3), "noise|noisy"),
        (lambda x: 0.3 * _blurred(x), "blur|explain the shift"),
        (lambda x: 40.0 * x, "outside what the release allows"),
        (lambda x: x * np.linspace(0.9, 0.1, len(x)).reshape(-1, 1, 1, 1), "meanwhile|explain"),
        (np.round, "explain the shift|clips|noise"),
    ],
)
def test_what_cannot_be_undone_is_refused(change: Change, reason: str) -> None:
    assert re.search(reason, verdict(change)), verdict(change)


def test_without_a_texture_noise_cannot_be_told() -> None:
    bare = PatchManifest(artifact_sha256="", input_reference=PATCH.input_reference)
    undo = gate.correction(
        Shift(drift=0.2, gain=0.5, offset=0.0, unexplained=0.0, inverted=False), STEADY,
        PATCH.input_reference, tensor="x", samples=64,
    )  # fmt: skip
    assert "tells no texture" in gate.smoothness(undo, 0.5 * LOCAL, bare, "NCHW")


def test_what_is_not_known_is_drawn_toward_no_change() -> None:
    found = Shift(drift=0.2, gain=0.5, offset=0.3, unexplained=0.0, inverted=False, exponent=2.0)
    reference = PATCH.input_reference

    def made(gain: float, offset: float, samples: int) -> tuple[float, float, float]:
        steady = Steadiness(gain=gain, offset=offset)
        undo = gate.correction(found, steady, reference, tensor="x", samples=samples)
        return undo.gain, undo.offset, undo.exponent

    assert made(0.0, 0.0, 10**9) == (0.5, 0.3, 2.0)
    unsure = made(np.log(2) / 2, 0.15, 2)
    assert unsure == (
        pytest.approx(0.5**0.75, rel=1e-5), pytest.approx(0.225), pytest.approx(2**0.5, rel=1e-5)
    )  # fmt: skip
    assert made(1.0, 0.4, 10**9) == (1.0, 0.0, 2.0)  # nothing is known of either


def test_steadiness_is_small_for_one_sensor_and_large_for_two() -> None:
    one = gate.steadiness(PATCH.input_reference, 0.3 * LOCAL, 1.0)
    half = np.where(np.arange(len(LOCAL)) < len(LOCAL) // 2, 0.3, 0.6).reshape(-1, 1, 1, 1)
    two = gate.steadiness(PATCH.input_reference, (half * LOCAL).astype(np.float32), 1.0)
    assert one.gain < 0.05 < two.gain
