"""Born-Again generations as a pass; the formula is in ``distillation/generations``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from controller.compress.base import (
    TRAINING_THREADS,
    Applied,
    Candidate,
    Context,
    Form,
    Pass,
    Property,
)
from controller.compress.distillation import methods, training
from controller.compress.passes.distil import Distil
from controller.errors import FitError

GIVES = ("last", "ensemble")


@dataclass(frozen=True, slots=True, kw_only=True)
class BornAgain(Pass):
    """``generations`` students of the candidate's architecture, each taught by the one before.

    The first is taught by the workload's module. ``fresh`` draws new weights for every generation,
    as in the paper; otherwise each starts from the candidate's, which suits a pruned network and
    a short budget. ``give``: the ``last`` generation, or the ``ensemble`` of all of them, which is
    meant as a teacher. The other settings mean what they mean in `Distil`.
    """

    name: ClassVar[str] = "born_again"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.RECOVERED})

    generations: int = 2
    fresh: bool = True
    give: str = "last"
    epochs: int = 3
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.05
    temperature: float = 1.0
    alpha: float = 0.5
    precision: str = "auto"
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.generations < 1 or self.give not in GIVES:
            raise FitError(
                f"{self.name}: at least one generation and one of {', '.join(GIVES)} are needed, "
                f"not {self.generations} and '{self.give}'"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        from controller.compress.distillation import generations

        torch.set_num_threads(TRAINING_THREADS)
        taught: list[Any] = []
        numbers: dict[str, float] = {}
        for index in range(self.generations):
            seed = context.seed + index
            student = (
                generations.fresh(candidate.payload, seed)
                if self.fresh
                else copy.deepcopy(candidate.payload)
            )
            teacher = taught[-1] if taught else context.teacher
            found = self._teach(student, replace(context, teacher=teacher, seed=seed, memory={}))
            numbers |= {f"{key}_{index + 1}": value for key, value in found.items()}
            taught.append(student)
        last = self.give == "last"
        made = taught[-1] if last else generations.Ensemble(taught).eval()
        return Applied(payload=made, numbers=numbers)

    def _teach(self, student: Any, context: Context) -> dict[str, float]:
        settings = Distil(
            epochs=self.epochs,
            samples=self.samples,
            batch=self.batch,
            learning_rate=self.learning_rate,
            alpha=self.alpha,
            precision=self.precision,
            max_seconds=self.max_seconds,
        )
        method = methods.make("hinton", temperature=self.temperature, alpha=self.alpha)
        lesson = settings.lesson(method, context)
        found = training.train(student, lesson, method, settings.schedule(context))
        return {key: found[key] for key in ("loss_first", "loss_last", "steps")}
