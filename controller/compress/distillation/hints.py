"""Hints: Romero et al. (2015), FitNets.

    L_HT = ½·mean((u_h − r(v_g))²)

where u_h is the teacher's feature at its middle layer (the hint), v_g the student's at the same
resolution (the guided layer), and r a 1x1 convolution where the widths differ, the identity where
they are equal. The paper sums the squares and trains up to the guided layer first, then distils;
here the term is averaged and added to Hinton's loss from the first step, with weight 100, as in
the comparison of Tian et al. (2020). A hint can hurt a thin student (same source).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.distillation.methods import Method, Seen

if TYPE_CHECKING:
    import torch
    from torch import nn


def hint_loss(guided: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
    """½·mean((hint − guided)²); both [B, C, …] of the same shape."""
    return 0.5 * (hint.detach() - guided).square().mean()


def regressor(student: int, teacher: int, axes: int) -> nn.Module:
    """From ``student`` to ``teacher`` channels, pointwise over ``axes`` axes of space (1 or 2)."""
    from torch import nn

    if student == teacher:
        return nn.Identity()
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    return kind(student, teacher, 1)


@dataclass(slots=True)
class Hints(Method):
    """Hinton's loss and a hint at the middle feature."""

    uses_features: ClassVar[bool] = True

    soft: Method
    weight: float = 100.0
    _middle: int = field(default=0, init=False)
    _regressor: Any = field(default=None, init=False)

    def prepare(self, student: Seen, teacher: Seen) -> None:
        if not student.features:
            return
        self._middle = len(student.features) // 2
        guided, hint = student.features[self._middle], teacher.features[self._middle]
        self._regressor = regressor(guided.shape[1], hint.shape[1], guided.ndim - 2)

    def parameters(self) -> Iterable[nn.Parameter]:
        return () if self._regressor is None else self._regressor.parameters()

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        loss = self.soft.loss(student, teacher, labels)
        if teacher is None or self._regressor is None:
            return loss
        guided = self._regressor(student.features[self._middle])
        return loss + self.weight * hint_loss(guided, teacher.features[self._middle])
