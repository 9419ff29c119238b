"""Learned step size quantization (LSQ; Esser et al. 2020, arXiv:1902.08153).

    v̂ = round(clip(v/s, −Q_N, Q_P))·s

Rounding passes gradients straight through; the step's own gradient is, for each value,

    ∂v̂/∂s = round(v/s) − v/s inside,  −Q_N or Q_P where clipped,

scaled by ``1/√(N·Q_P)`` for the ``N`` values that share a step, so that steps and weights learn at
like speed. A zero point only moves the two bounds, since it is a whole number of steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

FLOOR = 0.25  # of the step's beginning: one that reaches zero has nothing left to learn from


class _Round(torch.autograd.Function):
    """The two formulas of the module's docstring, in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, v: Any, step: Any, low: int, high: int, scale: float) -> Any:
        scaled = v / step
        levels = scaled.round().clamp_(low, high)
        ctx.save_for_backward(scaled, levels)
        ctx.bounds, ctx.scale, ctx.shape = (low, high), scale, step.shape
        return levels * step

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        scaled, levels = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (scaled >= low) & (scaled <= high)
        of_step = torch.where(inside, levels - scaled, levels) * grad
        of_step = of_step.sum_to_size(ctx.shape) * ctx.scale
        return grad * inside, of_step, None, None, None


class LearnedStep(nn.Module):
    """Rounds to multiples of a learned step between two whole bounds.

    ``step`` is 0-d, or shaped so that it divides the tensor by channel.
    """

    def __init__(self, step: torch.Tensor, low: int, high: int, *, learned: bool = True) -> None:
        super().__init__()
        self.step = nn.Parameter(step.clone(), requires_grad=learned)
        self.low, self.high = low, high
        self.register_buffer("least", FLOOR * step)

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        shared = v.numel() / self.step.numel()
        scale = 1.0 / math.sqrt(shared * max(self.high, 1))
        rounded: torch.Tensor = _Round.apply(v, self.step, self.low, self.high, scale)  # type: ignore[no-untyped-call]
        return rounded

    def keep_positive(self) -> None:
        """Lift a step that fell below its floor; to be called after each update."""
        with torch.no_grad():
            self.step.copy_(torch.maximum(self.step, self.get_buffer("least")))

    def levels(self, v: torch.Tensor) -> torch.Tensor:
        """The whole numbers that stand for ``v``."""
        return (v / self.step).round().clamp(self.low, self.high)
