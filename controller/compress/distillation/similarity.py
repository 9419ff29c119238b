"""Similarity preserving: Tung and Mori (2019).

    G = Q·Qᵀ with Q [B, C·positions]; each row of G divided by its length
    L_SP = ‖G_t − G_s‖_F² / B²

with the weight γ = 3000 of the paper. What counts is which inputs of a batch
look alike to the network, so neither widths nor resolutions must be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from controller.compress.distillation.methods import Method, Seen

if TYPE_CHECKING:
    import torch


def similarity(feature: torch.Tensor) -> torch.Tensor:
    """Row-normalized Gram matrix [B, B] of a batch of features [B, …]."""
    from torch.nn import functional

    flat = feature.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The term of one feature."""
    gap = similarity(teacher.detach()) - similarity(student)
    return gap.square().sum() / len(student) ** 2


@dataclass(slots=True)
class Similarity(Method):
    """Hinton's loss and the similarities within the batch at the last feature.

    The paper takes the last convolutional layer of the network for most of its results.
    """

    uses_features: ClassVar[bool] = True

    soft: Method
    weight: float = 3000.0

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        loss = self.soft.loss(student, teacher, labels)
        if teacher is None or not student.features:
            return loss
        return loss + self.weight * similarity_loss(student.features[-1], teacher.features[-1])
