"""Reading local samples, and telling a world from a stuck sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.workers import samples
from agent.workers.child import JobError
from agent.workers.runtimes.base import Tensor
from fitment.core.bundle import GoldenSpec

TENSOR = Tensor(name="x", dtype="float32", shape=(-1, 1, 4, 4))
GOLDEN = GoldenSpec(inputs="i", outputs="o", reference="r", tolerance=0.1, inputs_scale=0.5)


def _read(folder: Path) -> np.ndarray:
    return samples.read(folder, TENSOR, GOLDEN, seed=0)


def test_batches_single_samples_and_integers_come_together(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 1, 4, 4), dtype=np.float32))
    np.save(tmp_path / "b.npy", np.full((1, 4, 4), 4, dtype=np.uint8))
    found = _read(tmp_path)
    assert found.shape == (4, 1, 4, 4)
    assert found[0].max() == 1.0
    assert found[3].max() == 2.0  # scaled like the goldens


def test_an_empty_folder_has_no_samples(tmp_path: Path) -> None:
    assert len(_read(tmp_path)) == 0


def test_too_many_are_thinned_out_by_chance(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1500 * 16, dtype=np.float32).reshape(1500, 1, 4, 4))
    found = _read(tmp_path)
    assert len(found) == samples.MAX_SAMPLES
    assert np.array_equal(found, _read(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((2, 3, 4, 4), dtype=np.float32),
        np.zeros(16, dtype=np.float32),
        np.full((1, 4, 4), np.nan, dtype=np.float32),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["channels", "flat", "nan", "pickle"],
)
def test_what_is_no_sample_is_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(JobError) as caught:
        _read(tmp_path)
    assert caught.value.code == "samples_invalid"


def test_a_missing_folder_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="set the slot's sample folder"):
        _read(tmp_path / "none")


RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(64, 1, 4, 4)).astype(np.float32)
LEVELS = RNG.uniform(0, 5, size=(64, 1, 1, 1)).astype(np.float32)


def test_a_varied_set_passes() -> None:
    assert samples.sameness(NOISE + LEVELS, min_std=0.1) == ""


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (0.01 * NOISE, "almost no contrast"),
        (np.repeat(NOISE[:1], 64, axis=0), "1 of 64 samples differ"),
        (NOISE[:1] + 0.01 * NOISE, "same scene"),
        (NOISE, "no more than noise"),
    ],
    ids=["dark", "stuck", "still", "noise"],
)
def test_a_uniform_set_is_refused(made: np.ndarray, reason: str) -> None:
    assert reason in samples.sameness(made, min_std=0.1)
