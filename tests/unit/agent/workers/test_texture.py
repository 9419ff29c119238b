"""Noise and blur are told; gains, offsets and layouts are not."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers.texture import texture
from controller.compress import calibration
from tests.integration import worker_models as models

RNG = np.random.default_rng(0)
PICTURES = models.pictures(64, seed=1)


def test_independent_noise_has_one_and_a_ramp_almost_none() -> None:
    noise = texture(RNG.normal(size=(20, 1, 32, 32)).astype(np.float32))
    ramp = texture(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (4, 1, 8, 1)))
    assert noise is not None
    assert ramp is not None
    assert noise.roughness == pytest.approx(1.0, abs=0.05)
    assert ramp.roughness < 0.01


def test_a_gain_and_an_offset_change_no_roughness_and_scale_the_quiet_places() -> None:
    before, after = texture(PICTURES), texture(4.0 * PICTURES + 3.0)
    assert before is not None
    assert after is not None
    assert after.roughness == pytest.approx(before.roughness, rel=1e-4)
    assert after.quiet == pytest.approx(4.0 * before.quiet, rel=1e-3, abs=1e-6)


def test_a_little_noise_shows_in_quiet_places() -> None:
    noisy = PICTURES + RNG.normal(0, 0.02, PICTURES.shape).astype(np.float32)
    before, after = texture(PICTURES), texture(noisy)
    assert before is not None
    assert after is not None
    assert after.quiet > before.quiet + 0.005


def test_the_layout_of_images_does_not_matter() -> None:
    colours = np.concatenate([PICTURES, 0.5 * PICTURES, 1 - PICTURES], axis=1)
    turned = np.ascontiguousarray(colours.transpose(0, 2, 3, 1))
    first, second = texture(colours), texture(turned, "NHWC")
    assert first is not None
    assert second is not None
    assert first.roughness == pytest.approx(second.roughness)
    assert first.quiet == pytest.approx(second.quiet)


@pytest.mark.parametrize("shape", [(16, 1, 28, 28), (16, 400), (16, 2, 300), (700, 3, 40, 40)])
def test_controller_and_device_say_the_same(shape: tuple[int, ...]) -> None:
    """Neither room may import the other, so both have the function."""
    values = RNG.normal(size=shape).astype(np.float32).cumsum(axis=-1)
    assert texture(values) == calibration.texture(values)


def test_what_has_no_neighbours_has_no_texture() -> None:
    assert texture(np.zeros((8, 1), dtype=np.float32)) is None
    assert texture(np.ones((8, 1, 4, 4), dtype=np.float32)) is None
    assert texture(np.zeros((0, 1, 4, 4), dtype=np.float32)) is None
