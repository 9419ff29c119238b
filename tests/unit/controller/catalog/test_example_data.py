"""The examples keep the rule that they teach: test images choose nothing."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.catalog import workload

EXAMPLES = Path(workload.__file__).parent.parent / "examples"
CHOOSING = {
    "fashion_mnist": ("calibration_a", "calibration_b", "train"),
    "onnx_only": ("calibration_a", "calibration_b"),  # it has no training images
}


def rows(images: Any) -> set[bytes]:
    return {image.tobytes() for image in np.ascontiguousarray(images)}


@pytest.mark.parametrize("name", sorted(CHOOSING))
def test_nothing_that_chooses_is_a_test_image(name: str) -> None:
    loaded = workload.load(EXAMPLES / name)
    test = rows(loaded.data("test").inputs)
    for split in CHOOSING[name]:
        assert not rows(loaded.data(split).inputs) & test, split


def test_the_fashion_guard_comes_from_the_training_file() -> None:
    loaded = workload.load(EXAMPLES / "fashion_mnist")
    packed = lzma.decompress((EXAMPLES / "fashion_mnist/fashion_mnist_subset.npz.xz").read_bytes())
    with np.load(io.BytesIO(packed), allow_pickle=False) as subset:
        training, test = subset["train_images"], subset["t10k_images"]
    assert len(training) >= 10_000
    assert len(test) >= 5_000
    guard = loaded.data("calibration_b").inputs
    assert rows(guard[:, 0]) <= rows(training)
    assert len(guard) >= 2_000
