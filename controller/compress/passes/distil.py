"""Distillation: the compressed network learns to answer as the user's own does.

Hinton, Vinyals and Dean (2015):

    L = α·T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) + (1−α)·CE(z_s, y)

with KL summed over classes and averaged over the batch. The gradient of the soft term is
α·T·(softmax(z_s/T) − softmax(z_t/T))/B, whatever the number of classes. With α = 1 no labels
are needed. Outputs that are no class scores are matched by their mean squared error.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

TEACHER_BATCH = 256
MORE_OFTEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil(Pass):
    """Train for ``epochs`` over at most ``samples`` inputs, one-cycle SGD, seeded.

    Where there are fewer inputs than ``samples`` they are gone over more often, up to three times
    as often, so that the number of steps stays what was planned.

    ``max_seconds`` is a safety net for machines far slower than planned: when it cuts the
    training short, the evidence says so, and the result depends on the machine.
    """

    name: ClassVar[str] = "distil"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    requires: ClassVar[frozenset[Property]] = frozenset({Property.PRUNED})
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.RECOVERED})

    epochs: int = 3
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.05
    temperature: float = 4.0
    alpha: float = 0.9
    max_seconds: float = 600.0

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        torch.set_num_threads(context.threads)
        student = copy.deepcopy(candidate.payload)
        split = context.training
        chosen = np.random.default_rng(context.seed).permutation(len(split))[: self.samples]
        inputs, labels = split.inputs[chosen], split.labels[chosen]
        targets = self._teacher_outputs(inputs, context)
        hard = self._class_labels(labels, targets)
        numbers = self._train(student, inputs, (targets, hard), context)
        return Applied(payload=student.eval(), numbers=numbers)

    def _teacher_outputs(self, inputs: NDArray[Any], context: Context) -> torch.Tensor:
        """Computed once for a fit: every ratio learns from the same answers."""
        import torch

        key = f"teacher:{context.seed}:{len(inputs)}"
        if key not in context.memory:
            if context.teacher is None:
                raise FitError("distillation needs the workload's own module as the teacher")
            parts = []
            with torch.inference_mode():
                for start in range(0, len(inputs), TEACHER_BATCH):
                    real = context.workload.real(inputs[start : start + TEACHER_BATCH])
                    parts.append(context.teacher(torch.from_numpy(real.copy())))
            context.memory[key] = torch.cat(parts).clone()
        held: torch.Tensor = context.memory[key]
        return held

    def _class_labels(self, labels: NDArray[Any], targets: torch.Tensor) -> torch.Tensor | None:
        """Labels to learn from: class numbers, when the outputs are class scores."""
        import torch

        classes = targets.ndim == 2 and targets.shape[1] > 1
        whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if not (classes and whole and self.alpha < 1.0):
            return None
        return torch.from_numpy(labels.astype(np.int64))

    def _train(
        self,
        student: nn.Module,
        inputs: NDArray[Any],
        answers: tuple[torch.Tensor, torch.Tensor | None],
        context: Context,
    ) -> dict[str, float]:
        import torch

        targets, hard = answers
        generator = torch.Generator().manual_seed(context.seed)
        torch.manual_seed(context.seed)  # dropout draws from the global generator
        batch = min(self.batch, len(inputs))
        steps = len(inputs) // batch
        epochs = min(round(self.epochs * self.samples / len(inputs)), MORE_OFTEN * self.epochs)
        optimizer = torch.optim.SGD(
            student.parameters(),
            lr=self.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.learning_rate, total_steps=epochs * steps, pct_start=0.2
        )
        student.train()
        losses: list[float] = []
        deadline = time.monotonic() + self.max_seconds
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator)
            for step in range(steps):
                part = order[step * batch : (step + 1) * batch]
                real = torch.from_numpy(context.workload.real(inputs[part.numpy()]))
                labels = None if hard is None else hard[part]
                loss = distillation_loss(
                    student(real),
                    targets[part],
                    labels,
                    temperature=self.temperature,
                    alpha=self.alpha,
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            if time.monotonic() > deadline:
                break
        planned = epochs * steps
        return {
            "loss_first": float(np.mean(losses[:20])),
            "loss_last": float(np.mean(losses[-20:])),
            "steps": len(losses),
            "stopped_early": float(len(losses) < planned),
            "samples": len(inputs),
        }


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
