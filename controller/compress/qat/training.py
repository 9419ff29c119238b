"""Training a `GraphNet` to answer as a teacher does; one loop, for float controls too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.compress.passes.distil import distillation_loss
from controller.compress.qat.lsq import LearnedStep

PRINT = 20  # steps that first and last losses are averaged over
RISE = 10  # the first tenth of all steps
CLIP = 1.0  # greatest norm of a step's gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to train. Steps learn at the weights' rate; their gradients are scaled already."""

    epochs: int
    batch: int
    learning_rate: float
    temperature: float
    alpha: float
    seed: int
    max_seconds: float


def train(
    student: nn.Module,
    inputs: NDArray[Any],
    answers: tuple[torch.Tensor, torch.Tensor | None],
    real: Callable[[NDArray[Any]], NDArray[np.float32]],
    schedule: Schedule,
) -> dict[str, float]:
    """Train in place: SGD with Nesterov momentum, a short rise and a cosine, seeded.

    Args:
        student: gives outputs like the teacher's.
        inputs: stored inputs [N, …].
        answers: the teacher's outputs [N, …], and labels [N] or None.
        real: makes stored inputs float32.
        schedule: how.

    Returns:
        First and last loss, the number of steps, and whether time ran out before the end.
    """
    targets, labels = answers
    generator = torch.Generator().manual_seed(schedule.seed)
    batch = min(schedule.batch, len(inputs))
    steps = len(inputs) // batch
    learned = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=schedule.learning_rate, momentum=0.9, nesterov=True)
    total = schedule.epochs * steps
    cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    losses: list[float] = []
    deadline = time.process_time() + schedule.max_seconds
    for _ in range(schedule.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            part = order[step * batch : (step + 1) * batch]
            loss = distillation_loss(
                student(torch.from_numpy(real(inputs[part.numpy()]))),
                targets[part],
                None if labels is None else labels[part],
                temperature=schedule.temperature,
                alpha=schedule.alpha,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, CLIP)
            optimizer.step()
            for module in student.modules():
                if isinstance(module, LearnedStep):
                    module.keep_positive()
            cycle.step()
            losses.append(float(loss.detach()))
        if time.process_time() > deadline:
            break
    return {
        "loss_first": float(np.mean(losses[:PRINT])),
        "loss_last": float(np.mean(losses[-PRINT:])),
        "steps": len(losses),
        "stopped_early": float(len(losses) < schedule.epochs * steps),
        "samples": len(inputs),
    }


def _rate(step: int, total: int) -> float:
    """Share of the learning rate: up over the first tenth, then down along a cosine to zero."""
    rise = max(1, total // RISE)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
