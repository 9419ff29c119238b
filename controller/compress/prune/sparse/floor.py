"""One threshold for all layers, and a floor under each of them.

The trap: under one threshold a layer with small weights (a stem that takes raw pixels, a head
that was trained with decay) is wiped out while the sum over all layers looks harmless. Such layers
are reported with what they would have kept; the floor gives them back their best weights, and the
others give as much more, so that the share that goes stays what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controller.compress.prune.sparse.layers import Double
from controller.compress.prune.sparse.selection import Mask, cheapest
from controller.errors import FitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trapped:
    """A layer that one threshold would nearly or wholly empty."""

    layer: str
    kept: int  # without the floor
    weights: int

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"trap: one threshold for all layers would leave '{self.layer}' {self.kept} of its "
            f"{self.weights} weights ({100 * self.kept / self.weights:.1f} %)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which weights stay, by layer, and the layers that the floor saved."""

    stays: Mapping[str, Mask]
    trapped: tuple[Trapped, ...]


def across_layers(scores: Mapping[str, Double], share: float, floor: float) -> Chosen:
    """Let the lowest ``share`` of all scores go, but leave each layer ``floor`` of its weights.

    Args:
        scores: by layer, comparable between layers.
        share: of all weights together that go, 0..1.
        floor: share of a layer's weights that stay at least, 0..1; 0 sets the trap.

    Raises:
        FitError: the floors together keep more than may stay.
    """
    if 1.0 - share < floor - 1e-9:
        raise FitError(
            f"each layer keeps {floor:.0%} of its weights at least, so {share:.0%} of all "
            "cannot go: lower the sparsity or the floor"
        )
    plain = _lowest(scores, share)
    least = {name: int(np.ceil(floor * values.size)) for name, values in scores.items()}
    trapped = tuple(
        Trapped(layer=name, kept=int(stays.sum()), weights=stays.size)
        for name, stays in plain.items()
        if stays.sum() < max(least[name], 1)
    )
    if not trapped or not floor:
        return Chosen(stays=plain, trapped=trapped)
    held = {}
    for name, values in scores.items():
        best = ~cheapest(values, 1.0 - least[name] / values.size)
        held[name] = np.where(best, np.inf, values)  # above every threshold
    return Chosen(stays=_lowest(held, share), trapped=trapped)


def _lowest(scores: Mapping[str, Double], share: float) -> dict[str, Mask]:
    joined = np.concatenate([values.ravel() for values in scores.values()])
    stays = ~cheapest(joined, share)
    ends = np.cumsum([values.size for values in scores.values()])
    parts = np.split(stays, ends[:-1])
    return {
        name: part.reshape(values.shape)
        for (name, values), part in zip(scores.items(), parts, strict=True)
    }
