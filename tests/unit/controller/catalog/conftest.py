"""A small complete workload as text, and a writer that swaps parts of it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = textwrap.dedent(
    '''
    import numpy as np

    name = "tiny"
    version = "1"
    input_shape = (4,)
    labels = ["a", "b", "c"]
    budget = {"accuracy_drop_max": 0.02}

    class Model:
        """Stands for a torch module where none is run."""

        def eval(self):
            return self

        def state_dict(self):
            return {}

        def __call__(self, inputs):
            return inputs

    def source():
        return Model()

    def data(split):
        seed = {"train": 0, "calibration_a": 1, "calibration_b": 2, "test": 3}[split]
        random = np.random.default_rng(seed)
        inputs = random.normal(size=(64, 4)).astype(np.float32)
        return inputs, inputs[:, :3].argmax(axis=1)

    def metric(outputs, labels):
        return float((outputs.argmax(axis=1) == labels).mean())
    '''
)

TORCH_SOURCE = """
import torch

def source():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3, 4))
        model.bias.zero_()
    return model
"""

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """``write(*replacements, extra="")`` writes the workload and gives its folder."""

    def writer(*replacements: tuple[str, str], extra: str = "") -> Path:
        text = TEXT
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        folder = tmp_path / "given"
        folder.mkdir(exist_ok=True)
        (folder / "workload.py").write_text(text + textwrap.dedent(extra))
        return folder

    return writer


@pytest.fixture
def torch_source() -> str:
    """A real torch source that answers the tiny workload perfectly."""
    return TORCH_SOURCE
