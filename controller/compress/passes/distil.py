"""Distillation as a pass: the compressed network learns to answer as the user's own does.

The methods and their formulas are in ``controller/compress/distillation``, one file each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.compress.base import (
    TRAINING_THREADS,
    Applied,
    Candidate,
    Context,
    Form,
    Pass,
    Property,
)
from controller.compress.distillation import augment, methods, training
from controller.compress.distillation.hinton import distillation_loss
from controller.errors import FitError

if TYPE_CHECKING:
    import torch

__all__ = ["Distil", "class_labels", "distillation_loss", "teacher_answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil(Pass):
    """Train for ``epochs`` over at most ``samples`` inputs, one-cycle SGD, seeded.

    ``method`` is one of `methods.METHODS`; ``labels`` uses no teacher and is the control that the
    others are compared with. ``weight`` is that of the feature term, None its authors' own.
    Where there are fewer inputs than ``samples`` they are gone over more often, up to three times
    as often, so that the number of steps stays what was planned.

    ``mirror`` and ``shift`` (pixels) change the inputs from step to step; the teacher is then
    asked in every step. ``precision`` "auto" is bfloat16 where the processor has it.
    ``max_seconds`` is a safety net for machines far slower than planned: when it cuts the
    training short, the evidence says so, and the result depends on the machine.
    """

    name: ClassVar[str] = "distil"
    version: ClassVar[int] = 2
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.RECOVERED})

    epochs: int = 3
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.05
    temperature: float = 4.0
    alpha: float = 0.9
    method: str = "hinton"
    weight: float | None = None
    mirror: bool = False
    shift: int = 0
    precision: str = "auto"
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.method not in methods.METHODS or self.precision not in training.PRECISIONS:
            raise FitError(
                f"{self.name}: a method of {', '.join(methods.METHODS)} and a precision of "
                f"{', '.join(training.PRECISIONS)} are needed, not '{self.method}' and "
                f"'{self.precision}'"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        torch.set_num_threads(TRAINING_THREADS)
        student = copy.deepcopy(candidate.payload)
        method = methods.make(
            self.method, temperature=self.temperature, alpha=self.alpha, weight=self.weight
        )
        plan = self.schedule(context)
        numbers = training.train(student, self.lesson(method, context), method, plan)
        return Applied(payload=student, numbers=numbers)

    def schedule(self, context: Context) -> training.Schedule:
        """How long and how fast, for the training loop."""
        return training.Schedule(
            epochs=self.epochs,
            samples=self.samples,
            batch=self.batch,
            learning_rate=self.learning_rate,
            max_seconds=self.max_seconds,
            precision=self.precision,
            seed=context.seed,
        )

    def lesson(self, method: methods.Method, context: Context) -> training.Lesson:
        """What ``method`` learns from; the teacher's answers once, where they can be."""
        split = context.training
        chosen = np.random.default_rng(context.seed).permutation(len(split))[: self.samples]
        inputs, labels = split.inputs[chosen], split.labels[chosen]
        if method.uses_teacher and context.teacher is None:
            raise FitError("distillation needs the workload's own module as the teacher")
        change = augment.change(mirror=self.mirror, shift=self.shift)
        once = method.uses_teacher and change is None and not method.uses_features
        wanted = method.uses_labels and (self.alpha < 1.0 or not method.uses_teacher)
        return training.Lesson(
            inputs=inputs,
            real=context.workload.real,
            labels=class_labels(labels, context) if wanted else None,
            teacher=context.teacher if method.uses_teacher else None,
            answers=teacher_answers(inputs, context, self.precision) if once else None,
            change=change,
        )


def teacher_answers(inputs: NDArray[Any], context: Context, precision: str) -> torch.Tensor:
    """The teacher's outputs; computed once for a fit: every ratio learns from the same answers."""
    key = f"teacher:{context.seed}:{len(inputs)}:{precision}"
    if key not in context.memory:
        context.memory[key] = training.answers_of(
            context.teacher, inputs, context.workload.real, precision=precision
        )
    held: torch.Tensor = context.memory[key]
    return held


def class_labels(labels: NDArray[Any], context: Context) -> torch.Tensor | None:
    """Labels to learn from: class numbers, when the teacher's outputs are class scores."""
    import torch

    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not whole:
        return None
    if context.teacher is not None:
        with torch.inference_mode():
            outputs = context.teacher(torch.from_numpy(context.calibration[:2].copy()))
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            return None
    return torch.from_numpy(labels.astype(np.int64))
