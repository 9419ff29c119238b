"""A small workload and networks for the tests of torch passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from controller.catalog.workload import CALIBRATION, GUARD, TEST, TRAIN, Split, Workload
from controller.compress.base import Candidate, Context, Form

SHAPE = (3, 8, 8)


class Chain(nn.Module):
    """Conv-BN-ReLU twice with pooling, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b, self.nb = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.pool, self.head = nn.MaxPool2d(4), nn.Linear(24 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.na(self.a(x)))
        x = self.pool(torch.relu(self.nb(self.b(x))))
        return self.head(x.flatten(1))


class Residual(nn.Module):
    """A stem, one residual block with a depthwise layer inside, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.ns = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.up, self.nu = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.dw, self.nd = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
        self.down, self.no = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.ns(self.stem(x)))
        inner = torch.relu(self.nd(self.dw(torch.relu(self.nu(self.up(x))))))
        x = torch.relu(x + self.no(self.down(inner)))
        return self.head(x.mean(dim=(2, 3)))


class Dense(nn.Module):
    """A stem that is concatenated twice with what is made of it, in front of a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.nc, self.mix = nn.BatchNorm2d(40), nn.Conv2d(40, 24, 1)
        self.head = nn.Linear(24 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([x, torch.relu(self.side(x)), x], dim=1)
        x = torch.relu(self.mix(torch.relu(self.nc(x))))
        return self.head(nn.functional.max_pool2d(x, 4).flatten(1))


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` with random weights and statistics that are no identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            spread = name.endswith(("running_var", "weight")) and value.ndim == 1
            value.copy_(0.5 + drawn if spread else 0.4 * (drawn - 0.5))
    return module.eval()


def context(module: nn.Module | None = None, *, count: int = 96, seed: int = 0) -> Context:
    """A context over random images whose labels are the teacher's own answers."""
    random = np.random.default_rng(7)
    splits = {}
    for name in (CALIBRATION, GUARD, TEST, TRAIN):
        inputs = random.normal(size=(count, *SHAPE)).astype(np.float32)
        splits[name] = Split(inputs=inputs, labels=random.integers(0, 5, count))
    workload = Workload(name="tiny", version="1", folder=Path(), input_shape=SHAPE)
    return Context(workload=workload, splits=splits, teacher=module, seed=seed)


def candidate(module: nn.Module) -> Candidate:
    """The module at the start of a recipe."""
    return Candidate(form=Form.TORCH, payload=module)
