"""The seam of distillation: what a method sees of student and teacher, and the loss it gives.

A method is a loss over `Seen` of the student and of the teacher. What it uses of the two decides
what a training step must compute: labels, the teacher's outputs, features. `make` gives one by
name; the passes name it in their settings.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

METHODS = ("hinton", "label_free", "labels", "hints", "attention", "similarity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a network said about one batch: outputs [B, …], and features [B, C, …] in order."""

    outputs: torch.Tensor
    features: tuple[torch.Tensor, ...] = ()


class Method(abc.ABC):
    """One way to learn from a teacher. An object serves one training."""

    uses_teacher: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = True
    uses_features: ClassVar[bool] = False

    def prepare(self, student: Seen, teacher: Seen) -> None:
        """Make what is learned alongside, from one example batch of each. Called once."""
        del student, teacher

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is learned alongside the student, and thrown away with the method."""
        return ()

    def also(self, student: nn.Module, batch: torch.Tensor, seen: Seen) -> torch.Tensor | None:
        """A further term, of a method that runs the student again; ``seen`` is its first run."""
        del student, batch, seen
        return None

    @abc.abstractmethod
    def loss(
        self, student: Seen, teacher: Seen | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss of one batch, a scalar; labels [B] are class numbers or None.

        ``teacher`` is None only for a method that uses none.
        """


def make(
    name: str, *, temperature: float = 4.0, alpha: float = 0.9, weight: float | None = None
) -> Method:
    """The method ``name``.

    Args:
        name: one of `METHODS`. The three that match features add their term to Hinton's loss.
        temperature: of the soft targets.
        alpha: share of the soft term; the rest is cross-entropy with the labels.
        weight: of the feature term; None is the one its authors published.

    Raises:
        FitError: a name that is not known.
    """
    from controller.compress.distillation import attention, hinton, hints, similarity

    soft = hinton.Hinton(temperature=temperature, alpha=alpha)
    if name == "hinton":
        return soft
    if name == "label_free":
        return hinton.LabelFree(temperature=temperature)
    if name == "labels":
        return hinton.LabelsOnly()
    features: dict[str, Any] = {
        "hints": hints.Hints,
        "attention": attention.Attention,
        "similarity": similarity.Similarity,
    }
    if name not in features:
        raise FitError(f"distillation method '{name}' is not one of {', '.join(METHODS)}")
    made: Method = features[name](soft, **({} if weight is None else {"weight": weight}))
    return made
