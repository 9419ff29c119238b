"""Slimmable networks as passes: train one checkpoint, then take a width of it.

Every width becomes a variant of its own; what binds them is the *family* in their lineage. On a
device they are the rungs of its degradation ladder: same inputs, same outputs, falling cost.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any, ClassVar

from controller.compress.base import (
    TRAINING_THREADS,
    Applied,
    Candidate,
    Context,
    Form,
    Numbers,
    Pass,
    Property,
)
from controller.compress.distillation import methods, training
from controller.compress.passes.distil import Distil
from controller.compress.recipe import Recipe
from controller.errors import FitError
from fitment.core import digest

WIDTHS = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSlimmable(Pass):
    """One network for all ``widths`` (falling, the first 1), trained by the sandwich rule.

    The widest learns from the workload's module by Hinton's loss, as in `Distil`; the settings of
    the same names mean the same. ``between`` widths are drawn beside the narrowest in each step.
    """

    name: ClassVar[str] = "train_slimmable"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.SLIMMABLE})

    widths: tuple[float, ...] = WIDTHS
    multiple_of: int = 8
    between: int = 1
    epochs: int = 3
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.05
    temperature: float = 4.0
    alpha: float = 0.9
    precision: str = "auto"
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        widths = list(self.widths)
        falling = widths == sorted(set(widths), reverse=True)
        if len(widths) < 2 or widths[0] != 1.0 or widths[-1] <= 0 or not falling:
            raise FitError(
                f"{self.name}: at least two widths are needed, falling from 1, not {self.widths}"
            )

    @property
    def family(self) -> str:
        """What the variants of this checkpoint share, beside their source and seed."""
        listed = {"pass": self.name, "version": self.version, **self.settings}
        return f"slim-{digest.digest_of(listed).removeprefix('sha256:')[:8]}"

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        """Once for a fit: the recipes of all widths begin with this step."""
        key = f"{self.family}:{context.seed}"
        held = context.memory.get(key)
        if held is None or held[0] is not candidate.payload:
            held = (candidate.payload, *self._train(candidate, context))
            context.memory[key] = held
        return Applied(payload=copy.deepcopy(held[1]), numbers=held[2])

    def _train(self, candidate: Candidate, context: Context) -> tuple[Any, Numbers]:
        import torch

        from controller.compress.dynamic import slim
        from controller.compress.dynamic.sandwich import Sandwich

        torch.set_num_threads(TRAINING_THREADS)
        example = torch.from_numpy(context.calibration[:2].copy())
        network = slim.slimmable(
            candidate.payload, example, self.widths, multiple_of=self.multiple_of
        )
        usual = Distil(
            epochs=self.epochs,
            samples=self.samples,
            batch=self.batch,
            learning_rate=self.learning_rate,
            alpha=self.alpha,
            precision=self.precision,
            max_seconds=self.max_seconds,
        )
        soft = methods.make("hinton", temperature=self.temperature, alpha=self.alpha)
        method = Sandwich(
            soft=soft,
            levels=len(self.widths),
            between=self.between,
            draw=random.Random(context.seed),
        )
        lesson = usual.lesson(method, context)
        numbers = training.train(network, lesson, method, usual.schedule(context))
        own = [_parameters(slim.at_level(network, i)) for i in range(len(self.widths))]
        shared = {"parameters_shared": _parameters(network), "parameters_apart": sum(own)}
        return network, {**numbers, **shared}


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeWidth(Pass):
    """The plain network of one width of a slimmable one."""

    name: ClassVar[str] = "take_width"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    requires: ClassVar[frozenset[Property]] = frozenset({Property.SLIMMABLE})

    level: int = 0  # which of the widths, 0 the widest

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.dynamic import slim

        del context
        levels = slim.levels(candidate.payload)
        if not 0 <= self.level < levels:
            raise FitError(f"there is no width {self.level}; it has widths 0 to {levels - 1}")
        plain = slim.at_level(candidate.payload, self.level).eval()
        return Applied(payload=plain, numbers={"parameters": _parameters(plain)})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        """The plain network answers as the slimmable one does when switched to that width."""
        import torch

        from controller.compress.dynamic import slim

        inputs = torch.from_numpy(context.calibration[:8].copy())
        slim.switch(before.payload, self.level)
        try:
            with torch.inference_mode():
                expected = before.payload(inputs)
                found = after.payload(inputs)
        finally:
            slim.switch(before.payload, slim.FULL)
        error = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error <= 1e-4:
            raise FitError(f"the width taken answers otherwise, by {error:.2e} of the largest")
        return {"golden_error": error}


def family_of(recipe: Recipe) -> str:
    """The family that a recipe's variant belongs to, empty for none."""
    return next((step.family for step in recipe.steps if isinstance(step, TrainSlimmable)), "")


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())
