"""Whether a line of text stands on its head: an ONNX file that somebody else trained.

Its weights lie in Constant nodes, its height and width are free. Made by ``prepare.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
name = "angle"
version = "1.0.0"
files = ["model.onnx", "data.npz"]
input_name = "x"
input_shape = (3, 48, 192)
labels = ["upright", "turned"]
preprocessing = {"resize": "height 48, width at most 192, zeros behind", "normalize": "x/127.5-1"}
budget = {"accuracy_drop_max": 0.01}


def source() -> str:
    return "model.onnx"


def data(split: str) -> Any:
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        if f"{split}_inputs" not in held.files:
            return None
        return held[f"{split}_inputs"].astype(np.float32) / 127.5 - 1.0, held[f"{split}_labels"]


def slices(split: str) -> Any:
    """Lines of one short word give little to go by."""
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        return {"short": held[f"{split}_letters"] <= 5}


def metric(outputs: Any, answers: Any) -> float:
    return float((outputs.argmax(axis=1) == answers).mean())
