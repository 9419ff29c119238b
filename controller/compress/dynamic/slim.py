"""Slimmable networks: one set of weights that answers at several widths.

Yu et al. (2019): a narrow width uses the first channels of every layer, and each width has batch
normalization of its own (switchable batch normalization), since means and variances differ from
width to width. Channels are put in the order of their importance first, which changes no output,
so that the narrow widths start with the best ones.

Torch is imported with this module: load it inside functions only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from controller.compress.passes.channels import ChannelTracer, Space
from controller.compress.prune.criteria import CRITERIA, Material
from controller.compress.prune.surgery import reorder
from controller.errors import FitError

FULL = 0  # the level of the widest network; levels follow `widths`


@dataclass(frozen=True, slots=True)
class Sizes:
    """Channels in use at each level."""

    inner: tuple[int, ...]
    outer: tuple[int, ...]


class Switch(nn.Module):
    """A layer that does another thing at each level. ``at`` gives the plain layer of a level."""

    level: int = FULL

    def at(self, level: int) -> nn.Module:
        """The layer as it is at ``level``, with weights of its own."""
        raise NotImplementedError


class SlimLayer(Switch):
    """A convolution (plain or depthwise) or linear layer that uses its first channels."""

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear, sizes: Sizes) -> None:
        super().__init__()
        self.full, self.sizes = layer, sizes

    def _sliced(self, level: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        outer, inner = self.sizes.outer[level], self.sizes.inner[level]
        bias = self.full.bias
        weight = self.full.weight[:outer]
        weight = weight if self._depthwise else weight[:, :inner]
        return weight, None if bias is None else bias[:outer]

    @property
    def _depthwise(self) -> bool:
        return not isinstance(self.full, nn.Linear) and self.full.groups > 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._sliced(self.level)
        layer = self.full
        if isinstance(layer, nn.Linear):
            return functional.linear(x, weight, bias)
        groups = len(weight) if self._depthwise else 1
        run: Any = functional.conv1d if isinstance(layer, nn.Conv1d) else functional.conv2d
        made: torch.Tensor = run(
            x, weight, bias, layer.stride, layer.padding, layer.dilation, groups
        )
        return made

    def at(self, level: int) -> nn.Module:
        layer: Any = copy.deepcopy(self.full)
        weight, bias = self._sliced(level)
        layer.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone())
        outer, inner = self.sizes.outer[level], self.sizes.inner[level]
        if isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = inner, outer
        else:
            layer.out_channels = outer
            layer.in_channels = outer if self._depthwise else inner
            layer.groups = outer if self._depthwise else 1
        plain: nn.Module = layer
        return plain


class SwitchNorm(Switch):
    """Switchable batch normalization: one for each level, each starts as its slice."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList([_narrowed(norm, size) for size in sizes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.levels[self.level](x)
        return made

    def at(self, level: int) -> nn.Module:
        return copy.deepcopy(self.levels[level])


def slimmable(
    module: nn.Module, example: torch.Tensor, widths: Sequence[float], *, multiple_of: int
) -> nn.Module:
    """A slimmable copy of ``module``; at level 0 it answers exactly as the module does.

    Args:
        module: a torch module that `torch.fx` can trace, with batch normalization not yet folded.
        example: real inputs [B, …].
        widths: shares of the channels, falling, the first 1.
        multiple_of: the channels of a width are rounded up to it.

    Raises:
        FitError: the module cannot be traced, or no channel of it is free.
    """
    made = copy.deepcopy(module).eval()
    spaces = ChannelTracer(made, example).spaces()
    if not any(s.producers and not s.frozen for s in spaces):
        reasons = "; ".join(sorted({s.frozen for s in spaces if s.frozen}))
        raise FitError(f"no layer can change its width: {reasons}")
    layers = _layer_sizes(made, spaces, widths, multiple_of)
    norms = {name: sizes for name, sizes in layers.items() if isinstance(sizes, tuple)}
    for name, child in list(made.named_modules()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            fixed = (child.num_features,) * len(widths)
            _put(made, name, SwitchNorm(child, norms.get(name, fixed)))
        elif isinstance(layers.get(name), Sizes):
            _put(made, name, SlimLayer(child, layers[name]))
    return made


def switch(module: nn.Module, level: int) -> None:
    """Use ``level`` from now on."""
    for child in module.modules():
        if isinstance(child, Switch):
            child.level = level


def levels(module: nn.Module) -> int:
    """How many levels a slimmable network has."""
    return min(len(m.sizes.outer) for m in module.modules() if isinstance(m, SlimLayer))


def at_level(module: nn.Module, level: int) -> nn.Module:
    """The plain network of one level, with weights of its own."""
    made = copy.deepcopy(module)
    for name, child in list(made.named_modules()):
        if isinstance(child, Switch):
            _put(made, name, child.at(level))
    return made


def _layer_sizes(
    module: nn.Module, spaces: list[Space], widths: Sequence[float], multiple_of: int
) -> dict[str, Any]:
    """`Sizes` of every layer that slims, and the sizes of its norms; puts channels in order."""
    inner: dict[str, tuple[int, ...]] = {}
    outer: dict[str, tuple[int, ...]] = {}
    found: dict[str, Any] = {}
    for space in spaces:
        if space.frozen or not space.producers or _padded(module, space) or _beside(spaces, space):
            continue
        scores = CRITERIA["l1"].scores(module, space, Material())
        reorder(module, space, scores.argsort(descending=True, stable=True))
        sizes = tuple(kept(space.size, width, multiple_of) for width in widths)
        depthwise = [slot.name for slot in space.depthwise]
        outer |= dict.fromkeys((*space.producers, *depthwise), sizes)
        inner |= {slot.name: tuple(s * slot.factor for s in sizes) for slot in space.consumers}
        inner |= dict.fromkeys(depthwise, sizes)
        found |= {slot.name: sizes for slot in space.norms}
    for name in {*inner, *outer}:
        ins, outs = _full(module.get_submodule(name))
        found[name] = Sizes(
            inner=inner.get(name, (ins,) * len(widths)),
            outer=outer.get(name, (outs,) * len(widths)),
        )
    return found


def kept(size: int, width: float, multiple_of: int) -> int:
    """Channels of ``size`` that a width uses: rounded up to the multiple."""
    wanted = -(-size * width // multiple_of) * multiple_of
    return min(size, max(multiple_of, int(wanted)))


def _padded(module: nn.Module, space: Space) -> bool:
    """Whether a layer of the space pads with anything but zeros; such a space keeps its width."""
    named = [*space.producers, *(slot.name for slot in (*space.depthwise, *space.consumers))]
    modes = (getattr(module.get_submodule(name), "padding_mode", "zeros") for name in named)
    return any(mode != "zeros" for mode in modes)


def _beside(spaces: Sequence[Space], space: Space) -> bool:
    """Whether its channels are concatenated with others: the first ones of a layer are not theirs.

    Such a space keeps its width.
    """
    ours = {slot.name for slot in space.slots}
    listed = [slot.name for other in spaces for slot in other.slots if slot.name in ours]
    return len(listed) > len(ours)


def _full(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _narrowed(norm: Any, size: int) -> nn.Module:
    made: Any = copy.deepcopy(norm)
    made.num_features = size
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(made, name, nn.Parameter(getattr(norm, name).detach()[:size].clone()))
    for name in ("running_mean", "running_var"):
        if getattr(norm, name) is not None:
            setattr(made, name, getattr(norm, name)[:size].clone())
    return made  # type: ignore[no-any-return]


def _put(module: nn.Module, name: str, value: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, value)
