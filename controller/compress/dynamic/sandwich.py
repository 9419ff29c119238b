"""Training a slimmable network: the sandwich rule and in-place distillation.

Yu and Huang (2019): every step trains the widest, the narrowest and some widths between; the
widest learns from its teacher, the others from the widest's own answers of the same step:

    L = L_method(z_1, teacher, y) + Σ_w T²·KL(softmax(z_1/T) ‖ softmax(z_w/T))
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.compress.distillation.hinton import distillation_loss
from controller.compress.distillation.methods import Method, Seen

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(slots=True, kw_only=True)
class Sandwich(Method):
    """``soft`` trains the widest of ``levels``; ``between`` others are drawn for each step."""

    soft: Method
    levels: int
    between: int = 1
    temperature: float = 1.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.soft.parameters()

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        return self.soft.loss(student, teacher, labels)

    def also(self, student: nn.Module, batch: torch.Tensor, seen: Seen) -> torch.Tensor | None:
        """The narrower widths, each against the widest's answers. Leaves the widest switched on."""
        from controller.compress.dynamic import slim

        total = None
        try:
            for level in self.chosen():
                slim.switch(student, level)
                term = distillation_loss(
                    student(batch).float(),
                    seen.outputs.detach(),
                    None,
                    temperature=self.temperature,
                    alpha=1.0,
                )
                total = term if total is None else total + term
        finally:
            slim.switch(student, slim.FULL)
        return total

    def chosen(self) -> list[int]:
        """Levels beside the widest: the narrowest, and ``between`` of the rest."""
        middle = range(1, self.levels - 1)
        drawn = self.draw.sample(middle, min(self.between, len(middle)))
        return [*sorted(drawn), self.levels - 1]
