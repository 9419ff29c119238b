"""Recipes: ordered, frozen, versioned lists of configured passes, named by a digest."""

from __future__ import annotations

from dataclasses import dataclass

from controller.compress.base import Candidate, Context, Form, Pass
from controller.errors import FitError
from fitment.core import digest

RECIPE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A list of passes that is itself run like a pass."""

    steps: tuple[Pass, ...]

    @property
    def digest(self) -> str:
        """Digest over every step's name, version and settings, in order."""
        listed = [{"pass": s.name, "version": s.version, **s.settings} for s in self.steps]
        return digest.digest_of({"schema": RECIPE_SCHEMA, "steps": listed})

    @property
    def text(self) -> tuple[str, ...]:
        """The steps for people, in order."""
        return tuple(step.text for step in self.steps)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Run every step in order.

        Raises:
            FitError: a step cannot be done; the message names it and those that ran before.
        """
        done: list[str] = []
        for step in self.steps:
            try:
                candidate = step.run(candidate, context)
            except FitError as error:
                ran = f" (after {', '.join(done)})" if done else ""
                raise FitError(f"step {step.name}{ran}: {error}") from error
            done.append(step.name)
        return candidate

    def split(self) -> tuple[Recipe, Recipe]:
        """The part that ends with the first ONNX model, and the rest.

        The first part knows no target, so that cohorts share its result.
        """
        for index, step in enumerate(self.steps):
            if step.gives is Form.ONNX:
                head, tail = self.steps[: index + 1], self.steps[index + 1 :]
                return Recipe(steps=head), Recipe(steps=tail)
        raise FitError("a recipe must hold a pass that gives an ONNX model")

    def __add__(self, other: Recipe) -> Recipe:
        return Recipe(steps=self.steps + other.steps)
