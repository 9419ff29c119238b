"""Attention transfer: Zagoruyko and Komodakis (2017), activation-based, p = 2.

    Q(A) = vec(mean over channels of A²)        L_AT = Σ_j mean((Q_s/‖Q_s‖₂ − Q_t/‖Q_t‖₂)²)

over the features j, averaged over batch and positions as in the authors' code, with their weight
β = 1000. Maps have no channels, so the widths may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from controller.compress.distillation.methods import Method, Seen

if TYPE_CHECKING:
    import torch


def attention_map(feature: torch.Tensor) -> torch.Tensor:
    """The feature's map [B, positions], each row of length 1; ``feature`` is [B, C, …]."""
    from torch.nn import functional

    return functional.normalize(feature.square().mean(dim=1).flatten(1), dim=1)


def attention_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The term of one feature; both [B, C, …] with equal positions."""
    return (attention_map(student) - attention_map(teacher.detach())).square().mean()


@dataclass(slots=True)
class Attention(Method):
    """Hinton's loss and the attention of every feature."""

    uses_features: ClassVar[bool] = True

    soft: Method
    weight: float = 1000.0

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        loss = self.soft.loss(student, teacher, labels)
        if teacher is not None:
            for ours, theirs in zip(student.features, teacher.features, strict=True):
                loss = loss + self.weight * attention_loss(ours, theirs)
        return loss
