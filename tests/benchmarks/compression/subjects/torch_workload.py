"""A subject with its network: pruning and training are allowed. Copied beside its files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
name = "subject"
version = "1.0.0"
files = ["network.py", "subject.json", "weights.npz", "data.npz"]
facts = json.loads((HERE / "subject.json").read_text())
input_name = facts["input"]["name"]
input_shape = tuple(facts["input"]["shape"])
input_scale = facts["input"]["scale"]
budget = {"accuracy_drop_max": 0.01}
recover = facts["recover"]


def source() -> Any:
    import torch

    spec = importlib.util.spec_from_file_location("subject_network", HERE / "network.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    network = getattr(module, facts["network"])(*facts["arguments"])
    with np.load(HERE / "weights.npz", allow_pickle=False) as held:
        network.load_state_dict({key: torch.from_numpy(held[key]) for key in held.files})
    return network.eval()


def data(split: str) -> Any:
    with np.load(HERE / "data.npz", allow_pickle=False) as held:
        if f"{split}_inputs" not in held.files:
            return None
        return held[f"{split}_inputs"], held[f"{split}_labels"]


def metric(outputs: Any, answers: Any) -> float:
    return float((outputs.argmax(axis=1) == answers).mean())
