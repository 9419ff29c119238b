"""A model of which only the .onnx file is left: no module to prune, no training data.

It is folded, quantized and judged like any other; pruning and distillation need a torch module,
and the fit says so. See ``make.py`` for where the file comes from.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent

name = "onnx_only"
version = "1.0.0"
files = ["model.onnx", "images.npz.xz"]

input_name = "pixels"
input_shape = (196,)
input_scale = 1.0 / 255.0
labels = [
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip
preprocessing = {"color": "grey", "range": "0..1", "size": "14x14", "order": "rows"}
budget = {"accuracy_drop_max": 0.02, "agreement_min": 0.9}

_PARTS = {"calibration_a": "calibration", "calibration_b": "guard", "test": "test"}


def source() -> str:
    """The file, relative to this one."""
    return "model.onnx"


def data(split: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Images [N, 196] uint8 and labels [N]; there are no training images."""
    if split == "train":
        return None
    unpacked = io.BytesIO(lzma.decompress((HERE / "images.npz.xz").read_bytes()))
    with np.load(unpacked, allow_pickle=False) as archive:
        part = _PARTS[split]
        return archive[f"{part}_inputs"], archive[f"{part}_labels"].astype(np.int64)


def metric(outputs: NDArray[Any], answers: NDArray[Any]) -> float:
    """Share of images whose highest score is the right class."""
    return float((outputs.argmax(axis=1) == answers).mean())
