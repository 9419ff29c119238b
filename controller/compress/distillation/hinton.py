"""Soft targets: Hinton, Vinyals and Dean (2015), with and without labels.

    L = α·T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) + (1−α)·CE(z_s, y)

with KL summed over classes and averaged over the batch (``batchmean``). The gradient of the soft
term is α·T·(softmax(z_s/T) − softmax(z_t/T))/B, whatever the number of classes N. As T grows it
tends to α·((z_s − mean z_s) − (z_t − mean z_t))/(N·B): for logits of zero mean that is the
gradient (z − v)/N of matching logits, which the paper writes as (z − v)/(N·T²) before the factor
T². Outputs that are no class scores are matched by their mean squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from controller.compress.distillation.methods import Method, Seen
from controller.errors import FitError

if TYPE_CHECKING:
    import torch


def distillation_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    temperature: float,
    alpha: float,
) -> torch.Tensor:
    """The loss of the module's docstring; logits [B, C], labels [B] or None.

    Without labels the soft term stands alone with weight ``alpha``. Outputs of any other shape,
    or with one column, are matched by their mean squared error.
    """
    from torch.nn import functional

    if student.ndim != 2 or student.shape[1] == 1:
        return functional.mse_loss(student, teacher)
    soft = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
    )
    loss = alpha * temperature**2 * soft
    if labels is not None:
        loss = loss + (1.0 - alpha) * functional.cross_entropy(student, labels)
    return loss


@dataclass(slots=True, kw_only=True)
class Hinton(Method):
    """Soft targets beside the labels, where there are any."""

    temperature: float = 4.0
    alpha: float = 0.9

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        if teacher is None:
            raise FitError("soft targets need a teacher")
        return distillation_loss(
            student.outputs,
            teacher.outputs,
            labels,
            temperature=self.temperature,
            alpha=self.alpha,
        )


@dataclass(slots=True, kw_only=True)
class LabelFree(Method):
    """The soft term alone: the fp32 model's answers are all there is to learn from.

    It works on any inputs of the user's, the calibration set included, and no label is read.
    """

    uses_labels: ClassVar[bool] = False

    temperature: float = 4.0

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        if labels is not None:
            raise FitError("label-free recovery must not be given labels")
        return Hinton(temperature=self.temperature, alpha=1.0).loss(student, teacher, None)


@dataclass(slots=True, kw_only=True)
class LabelsOnly(Method):
    """No teacher: cross-entropy with the labels. The control that distillation must beat."""

    uses_teacher: ClassVar[bool] = False

    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        from torch.nn import functional

        del teacher
        if labels is None:
            raise FitError("training without a teacher needs class labels and class scores")
        return functional.cross_entropy(student.outputs, labels)
