"""The seam of structured criteria: a score for each channel of a coupled group."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.passes.channels import Space

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a criterion may look at beside the weights.

    ``inputs`` are real inputs [N, …]; ``labels`` are class numbers [N] (true ones, or the fp32
    network's own answers), None where the outputs are no class scores.
    """

    inputs: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    seed: int = 0


class Criterion(abc.ABC):
    """Judges the channels of one space of a network in eval mode."""

    name: ClassVar[str]
    needs_inputs: ClassVar[bool] = False

    @abc.abstractmethod
    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        """Scores [channels]; the lowest are cut. Only their order counts."""

    def mend(self, module: nn.Module, space: Space, kept: torch.Tensor, material: Material) -> None:
        """Change in place what stays, before the others are removed. Most leave it alone."""
        del module, space, kept, material


def mean_of_holders(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores [channels] of a coupled group from those of its layers.

    Each is scaled to mean 1 first: a layer with large weights does not decide for the others.
    """
    import torch

    return torch.stack([s / s.mean().clamp_min(1e-12) for s in scores]).mean(dim=0)


def filters(module: nn.Module, space: Space) -> list[torch.Tensor]:
    """The filters [channels, …flat] of every layer that makes the space's channels.

    Those of an embedding are what all words have there.
    """
    from torch import nn

    layers: list[Any] = [module.get_submodule(name) for name in space.producers]
    return [
        layer.weight.detach().T
        if isinstance(layer, nn.Embedding)
        else layer.weight.detach().flatten(1)
        for layer in layers
    ]
