"""Structured pruning: remove whole channels, so that every runtime gets faster.

Channels are cut by the same ratio in every space that the tracer leaves free, and what is kept
is rounded up to a multiple that the target's kernels like. Accuracy is lost here and must be
recovered by the next pass.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes.channels import ChannelTracer, Space
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

CRITERIA = ("l1", "bn_scale", "fpgm")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStructured(Pass):
    """Cut ``ratio`` of the channels of every free space.

    ``criterion``: ``l1``, the sum of a filter's magnitudes; ``bn_scale``, the batch
    normalization's |γ| (l1 where there is none); ``fpgm``, the distance from the layer's
    geometric median (He et al. 2019): what other filters can replace goes first.
    """

    name: ClassVar[str] = "prune_structured"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED, Property.PRUNED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.PRUNED})

    ratio: float = 0.5
    multiple_of: int = 8
    criterion: str = "l1"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.multiple_of < 1 or self.criterion not in CRITERIA:
            raise FitError(
                f"{self.name}: a ratio between 0 and 1, a multiple ≥ 1 and a criterion of "
                f"{', '.join(CRITERIA)} are needed, not {self.settings}"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        module = copy.deepcopy(candidate.payload).eval()
        example = torch.from_numpy(context.calibration[:2].copy())
        before = _parameters(module)
        spaces = [s for s in ChannelTracer(module, example).spaces() if s.producers]
        free = [s for s in spaces if not s.frozen]
        cut = [s for s in free if self.kept(s.size) < s.size]
        if not cut:
            reasons = "; ".join(sorted({s.frozen for s in spaces if s.frozen}))
            raise FitError(f"no channels can be removed: {reasons or 'there are too few'}")
        for space in cut:
            order = importance(module, space, self.criterion).argsort(descending=True, stable=True)
            remove(module, space, order[: self.kept(space.size)].sort().values)
        return Applied(
            payload=module,
            numbers={
                "channels_before": sum(s.size for s in spaces),
                "channels_removed": sum(s.size - self.kept(s.size) for s in cut),
                "spaces_frozen": len(spaces) - len(free),
                "parameters_before": before,
                "parameters_after": _parameters(module),
            },
        )

    def kept(self, size: int) -> int:
        """How many of ``size`` channels stay: rounded up to the multiple."""
        exact = (1.0 - self.ratio) * size / self.multiple_of
        return min(size, max(1, math.ceil(exact - 1e-9)) * self.multiple_of)

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        import torch

        inputs = torch.from_numpy(context.calibration[:2].copy())
        with torch.inference_mode():
            expected, found = before.payload(inputs), after.payload(inputs)
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            raise FitError(
                f"the pruned network answers with shape {tuple(found.shape)} instead of "
                f"{tuple(expected.shape)}, or not with finite numbers"
            )
        return {}


def importance(module: nn.Module, space: Space, criterion: str) -> torch.Tensor:
    """Score [channels] of one space: the mean over its holders, each scaled to mean 1.

    The scaling keeps a layer with large weights from deciding for the others.
    """
    import torch

    scores: list[torch.Tensor] = []
    if criterion == "bn_scale":
        weights = [module.get_submodule(name).weight for name in space.norms]
        scores = [w.detach().abs() for w in weights if isinstance(w, torch.Tensor)]
    if not scores:
        filters = [_weight(module, name).flatten(1) for name in space.producers]
        if criterion == "fpgm":
            scores = [torch.cdist(f, f).sum(dim=1) for f in filters]
        else:
            scores = [f.abs().sum(dim=1) for f in filters]
    return torch.stack([s / s.mean().clamp_min(1e-12) for s in scores]).mean(dim=0)


def remove(module: nn.Module, space: Space, kept: torch.Tensor) -> None:
    """Keep only the channels ``kept`` (sorted indices) of one space, in place."""
    import torch

    count = len(kept)
    for name in space.producers:
        layer: Any = module.get_submodule(name)
        _slice(layer, ("weight", "bias"), kept)
        setattr(layer, "out_channels" if hasattr(layer, "out_channels") else "out_features", count)
    for name in space.norms:
        layer = module.get_submodule(name)
        _slice(layer, ("weight", "bias", "running_mean", "running_var"), kept)
        layer.num_features = count
    for name in space.depthwise:
        layer = module.get_submodule(name)
        _slice(layer, ("weight", "bias"), kept)
        layer.in_channels = layer.out_channels = layer.groups = count
    for name, factor in space.consumers:
        layer = module.get_submodule(name)
        wanted = (kept[:, None] * factor + torch.arange(factor)).flatten()
        layer.weight = torch.nn.Parameter(layer.weight.detach()[:, wanted].clone())
        size = "in_channels" if hasattr(layer, "in_channels") else "in_features"
        setattr(layer, size, len(wanted))


def _slice(layer: Any, names: tuple[str, ...], kept: torch.Tensor) -> None:
    from torch import nn

    for name in names:
        value = getattr(layer, name, None)
        if value is None:
            continue
        part = value.detach()[kept].clone()
        setattr(layer, name, nn.Parameter(part) if isinstance(value, nn.Parameter) else part)


def _weight(module: nn.Module, name: str) -> torch.Tensor:
    weight: Any = module.get_submodule(name).weight
    return weight.detach()  # type: ignore[no-any-return]


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
