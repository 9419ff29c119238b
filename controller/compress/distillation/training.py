"""One training loop for all that learns here: one-cycle SGD, seeded, as fast as one core gives.

What made it faster on the shipped network (numbers in ``tests/benchmarks/compression``):
convolutions on channels-last tensors, bfloat16 where the processor multiplies it natively (the
loss and the weights stay float32), and the teacher's answers computed once unless the inputs
change from epoch to epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controller.compress.distillation import features
from controller.compress.distillation.methods import Method, Seen
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

MORE_OFTEN = 3
TEACHER_BATCH = 256
PRECISIONS = ("auto", "float32", "bfloat16")
Changed = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast. ``samples`` is what was planned, there may be fewer."""

    epochs: int
    samples: int
    batch: int = 64
    learning_rate: float = 0.05
    max_seconds: float = 600.0
    precision: str = "auto"
    channels_last: bool = True  # layout of images and of the weights that meet them
    seed: int = 0

    def rounds(self, count: int) -> int:
        """Epochs over ``count`` inputs: fewer inputs are gone over up to three times as often."""
        wanted = round(self.epochs * self.samples / count)
        return max(1, min(wanted, MORE_OFTEN * self.epochs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is learned from.

    ``answers`` [N, …] are the teacher's, for the inputs as they are; None where the teacher must
    be asked in every step, because features are matched or the inputs are changed.
    """

    inputs: NDArray[Any]  # as stored, [N, …]
    real: Callable[[NDArray[Any]], NDArray[np.float32]]
    labels: torch.Tensor | None = None  # class numbers [N]
    teacher: nn.Module | None = None
    answers: torch.Tensor | None = None
    change: Changed | None = None  # augmentation of a batch


def train(student: nn.Module, lesson: Lesson, method: Method, plan: Schedule) -> dict[str, float]:
    """Train ``student`` in place and leave it in eval mode. Returns numbers for the evidence.

    Raises:
        FitError: the method cannot learn from this lesson.
    """
    import torch

    torch.manual_seed(plan.seed)  # dropout draws from the global generator
    example = torch.from_numpy(lesson.real(lesson.inputs[:2]))
    pairs = _feature_pairs(student, lesson.teacher, example) if method.uses_features else []
    low = lowered(plan.precision, student)
    _layout(student, example, channels_last=plan.channels_last)
    try:
        with (
            features.tapped(student, [ours for ours, _ in pairs]) as own,
            features.tapped(lesson.teacher or student, [t for _, t in pairs]) as taught,
        ):
            run = _Run(student, lesson, method, plan, pairs=pairs, own=own, taught=taught, low=low)
            numbers = run.all()
    finally:
        _layout(student, example, channels_last=False)
        student.eval()
    return {**numbers, "features": float(len(pairs)), "bfloat16": float(low)}


def lowered(precision: str, module: nn.Module) -> bool:
    """Whether ``module`` runs in bfloat16; only convolutions gain by it."""
    from torch import nn

    wanted = native_bfloat16() if precision == "auto" else precision == "bfloat16"
    return wanted and any(isinstance(m, nn.Conv1d | nn.Conv2d) for m in module.modules())


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; emulated, it is slower than float32."""
    import torch

    asked: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(asked.get("avx512_bf16") or asked.get("amx_bf16"))


def answers_of(
    teacher: nn.Module,
    inputs: NDArray[Any],
    real: Callable[[NDArray[Any]], NDArray[np.float32]],
    *,
    precision: str = "auto",
) -> torch.Tensor:
    """The teacher's outputs [N, …] for stored inputs, as float32."""
    import torch

    parts = []
    example = torch.from_numpy(real(inputs[:2]))
    low = lowered(precision, teacher)
    _layout(teacher, example, channels_last=True)
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            for start in range(0, len(inputs), TEACHER_BATCH):
                batch = torch.from_numpy(real(inputs[start : start + TEACHER_BATCH]))
                parts.append(teacher(_packed(batch)).float())
    finally:
        _layout(teacher, example, channels_last=False)
    return torch.cat(parts)


@dataclass(slots=True)
class _Run:
    student: nn.Module
    lesson: Lesson
    method: Method
    plan: Schedule
    pairs: list[tuple[str, str]] = field(kw_only=True)
    own: dict[str, torch.Tensor] = field(kw_only=True)
    taught: dict[str, torch.Tensor] = field(kw_only=True)
    low: bool = field(kw_only=True)

    def all(self) -> dict[str, float]:
        import torch

        lesson, plan = self.lesson, self.plan
        count = len(lesson.inputs)
        batch = min(plan.batch, count)
        steps, epochs = count // batch, plan.rounds(count)
        generator = torch.Generator().manual_seed(plan.seed)
        self._prepare()
        optimizer, schedule = self._optimizer(epochs * steps)
        losses: list[float] = []
        deadline = time.process_time() + plan.max_seconds
        self.student.train()
        for _ in range(epochs):
            order = torch.randperm(count, generator=generator)
            for step in range(steps):
                loss = self._loss(order[step * batch : (step + 1) * batch], generator)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            if time.process_time() > deadline:
                break
        return {
            "loss_first": float(np.mean(losses[:20])),
            "loss_last": float(np.mean(losses[-20:])),
            "steps": len(losses),
            "stopped_early": float(len(losses) < epochs * steps),
            "samples": count,
        }

    def _prepare(self) -> None:
        """Let the method see one batch in eval mode, so that no statistic of the student moves."""
        import torch

        if not self.method.uses_teacher:
            return
        part = torch.arange(min(2, len(self.lesson.inputs)))
        self.student.eval()
        with torch.no_grad():
            _, student, teacher, _ = self._seen(part, None)
        if teacher is not None:
            self.method.prepare(student, teacher)

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        import torch

        rate = self.plan.learning_rate
        optimizer = torch.optim.SGD(
            [*self.student.parameters(), *self.method.parameters()],
            lr=rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=max(steps, 1), pct_start=0.2
        )
        return optimizer, cycle

    def _loss(self, part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        batch, student, teacher, labels = self._seen(part, generator)
        loss = self.method.loss(student, teacher, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            more = self.method.also(self.student, batch, student)
        return loss if more is None else loss + more

    def _seen(
        self, part: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, Seen, Seen | None, torch.Tensor | None]:
        import torch

        lesson = self.lesson
        batch = torch.from_numpy(lesson.real(lesson.inputs[part.numpy()]))
        if lesson.change is not None and generator is not None:
            batch = lesson.change(batch, generator)
        batch = _packed(batch) if self.plan.channels_last else batch
        teacher = self._teacher(batch, part)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            outputs = self.student(batch)
        names = [ours for ours, _ in self.pairs]
        student = Seen(outputs=outputs.float(), features=tuple(self.own[n].float() for n in names))
        labels = lesson.labels[part] if lesson.labels is not None else None
        return batch, student, teacher, labels if self.method.uses_labels else None

    def _teacher(self, batch: torch.Tensor, part: torch.Tensor) -> Seen | None:
        import torch

        if not self.method.uses_teacher:
            return None
        if self.lesson.answers is not None:
            return Seen(outputs=self.lesson.answers[part])
        if self.lesson.teacher is None:
            raise FitError("this method needs a teacher, and there is none")
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            outputs = self.lesson.teacher(batch)
        features_ = tuple(self.taught[name].float() for _, name in self.pairs)
        return Seen(outputs=outputs.float(), features=features_)


def _feature_pairs(
    student: nn.Module, teacher: nn.Module | None, example: torch.Tensor
) -> list[tuple[str, str]]:
    if teacher is None:
        raise FitError("methods that match features need the teacher itself, not its answers")
    return features.common(features.points(student, example), features.points(teacher, example))


def _packed(batch: torch.Tensor) -> torch.Tensor:
    import torch

    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def _layout(module: nn.Module, example: torch.Tensor, *, channels_last: bool) -> None:
    """Weights of 2-D convolutions channels-last for training, and back for export."""
    import torch

    if example.ndim == 4:
        wanted = torch.channels_last if channels_last else torch.contiguous_format
        module.to(memory_format=wanted)  # type: ignore[call-overload]
