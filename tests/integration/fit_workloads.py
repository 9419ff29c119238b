"""A torch workload small enough to be fitted in seconds: three textures in 12x12 images."""

from __future__ import annotations

import textwrap
from pathlib import Path

SOURCE = '''
    import numpy as np

    name = "textures"
    version = "1"
    input_shape = (1, 12, 12)
    input_scale = 1.0 / 255.0
    labels = ["rows", "columns", "noise"]
    budget = {"accuracy_drop_max": 0.1}
    recover = {"epochs": 2, "samples": 512, "batch": 32}

    def source():
        """Differences along rows and columns, averaged; made by hand, so it needs no training."""
        import torch
        from torch import nn

        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
        ).eval()
        step = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
        kinds = torch.stack([step, -step, step.T, -step.T])
        with torch.no_grad():
            size = torch.linspace(0.9, 1.1, 16)[:, None, None]
            network[0].weight[:, 0] = kinds.repeat(4, 1, 1) * size
            network[4].weight.mul_(0.1)
            network[4].weight[range(16), range(16), 1, 1] += 1.0
            across = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4)
            down = 1.0 - across
            both = (across + down) / 2
            network[9].weight.copy_(torch.stack([down - across, across - down, both]))
            inputs, answers = data("train")
            strength = network[:9](torch.from_numpy(inputs / np.float32(255.0)))
            typical = (strength @ (across + down))[torch.from_numpy(answers) == 2].mean()
            network[9].bias.copy_(torch.tensor([0.0, 0.0, -0.125 * float(typical)]))
        return network

    def data(split):
        parts = {"train": (0, 768), "calibration_a": (1, 96), "calibration_b": (2, 256),
                 "test": (3, 256)}
        seed, count = parts[split]
        random = np.random.default_rng(seed)
        answers = random.integers(0, 3, count)
        lines = random.integers(0, 200, (count, 1, 12, 1))
        dots = random.integers(0, 200, (count, 1, 12, 12))
        kinds = (lines + 0 * dots, lines.swapaxes(2, 3) + 0 * dots, dots)
        images = np.choose(answers[:, None, None, None], kinds)
        return (images + random.integers(0, 40, images.shape)).astype(np.uint8), answers

    def metric(outputs, answers):
        return float((outputs.argmax(axis=1) == answers).mean())
'''


def textures(folder: Path, *replacements: tuple[str, str]) -> Path:
    """Write the workload, with parts of it swapped; gives its folder."""
    text = textwrap.dedent(SOURCE)
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.py").write_text(text)
    return folder
