"""Spam, from the words of a mail: a detector of something that must not cost a good mail.

Made by ``prepare.py``, which lays this file beside its data and weights.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
name = "spam"
version = "1.0.0"
files = ["network.py", "weights.npz", "data.npz"]
input_name = "tokens"
input_shape = (256,)
labels = ["ham", "spam"]
budget = {"accuracy_drop_max": 0.01, "recall_drop_max": 0.02}
operating_point = {"positive": "spam", "false_positive_rate_max": 0.01}
recover = {"epochs": 6, "samples": 4_000, "batch": 32, "learning_rate": 0.05}


def source() -> Any:
    import torch

    spec = importlib.util.spec_from_file_location("spam_network", HERE / "network.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    network = module.TextNet()
    with np.load(HERE / "weights.npz", allow_pickle=False) as held:
        network.load_state_dict({key: torch.from_numpy(held[key]) for key in held.files})
    return network.eval()


def data(split: str) -> Any:
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        if f"{split}_inputs" not in held.files:
            return None
        return held[f"{split}_inputs"], held[f"{split}_labels"]


def slices(split: str) -> Any:
    """Mails of a few words, and the ham that is hard to tell from spam."""
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        return {
            "hard ham": held[f"{split}_groups"] == "hard-ham-1",
            "short": (held[f"{split}_inputs"] > 0).sum(axis=1) < 64,
        }


def metric(outputs: Any, answers: Any) -> float:
    return float((outputs.argmax(axis=1) == answers).mean())
