"""Whether somebody speaks: a recurrent ONNX file of three inputs, whose state the caller keeps.

Each sample is one run: 32 ms of sound with what came before, the state that fp32 had there, and
the rate. Made by ``prepare.py``, which also runs variants over whole streams with their own state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
name = "voice"
version = "1.0.0"
files = ["model.onnx", "data.npz"]
input_shape = {"input": (1, 576), "state": (2, 1, 128), "sr": ()}
labels: list[str] = []
budget = {"accuracy_drop_max": 0.01, "recall_drop_max": 0.02}
operating_point = {"positive": 1, "false_positive_rate_max": 0.05}


def source() -> str:
    return "model.onnx"


def data(split: str) -> Any:
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        if f"{split}_labels" not in held.files:
            return None
        return {name: held[f"{split}_{name}"] for name in input_shape}, held[f"{split}_labels"]


def metric(outputs: Any, answers: Any) -> float:
    return float(((outputs[:, 0] >= 0.5) == answers).mean())
