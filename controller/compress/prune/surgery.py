"""Cutting channels out of a torch module, in every layer that holds a slice of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from controller.compress.passes.channels import Slot, Space

if TYPE_CHECKING:
    import torch
    from torch import nn


Places = Callable[[Sequence[Slot], int, "torch.Tensor", int], "torch.Tensor"]
"""From slots, channels of the space, those chosen, and a module's features: features to take."""


def remove(module: nn.Module, space: Space, kept: torch.Tensor) -> None:
    """Keep only the channels ``kept`` (sorted indices) of one space, in place.

    Places behind them in a concatenation move: other spaces must be traced again.
    """
    _choose(module, space, kept, _wanted)


def reorder(module: nn.Module, space: Space, order: torch.Tensor) -> None:
    """Bring the channels of one space into another order, in place: the answers stay the same."""
    _choose(module, space, order, _moved)


def _choose(module: nn.Module, space: Space, kept: torch.Tensor, places: Places) -> None:
    from torch import nn

    for name in space.producers:
        layer: Any = module.get_submodule(name)
        if isinstance(layer, nn.Embedding):
            layer.weight = _parameter(layer.weight.detach()[:, kept])
            layer.embedding_dim = len(kept)
            continue
        _slice(layer, ("weight", "bias"), kept)
        setattr(layer, _field(layer, "out"), len(kept))
    for name, slots in _by_module(space.norms):
        layer = module.get_submodule(name)
        wanted = places(slots, space.size, kept, layer.num_features)
        _slice(layer, ("weight", "bias", "running_mean", "running_var"), wanted)
        layer.num_features = len(wanted)
    for name, slots in _by_module(space.depthwise):
        layer = module.get_submodule(name)
        wanted = places(slots, space.size, kept, layer.out_channels)
        _slice(layer, ("weight", "bias"), wanted)
        layer.in_channels = layer.out_channels = layer.groups = len(wanted)
    for name, slots in _by_module(space.consumers):
        layer = module.get_submodule(name)
        wanted = places(slots, space.size, kept, layer.weight.shape[1])
        layer.weight = _parameter(layer.weight.detach()[:, wanted])
        setattr(layer, _field(layer, "in"), len(wanted))


def features(slot: Slot, channels: torch.Tensor) -> torch.Tensor:
    """Indices [channels · factor] of a slot's features on its module's axis."""
    import torch

    start = slot.offset + channels * slot.factor
    return (start[:, None] + torch.arange(slot.factor)).flatten()


def parameters(module: nn.Module) -> int:
    """How many values all parameters hold together."""
    return sum(p.numel() for p in module.parameters())


def _by_module(slots: Sequence[Slot]) -> list[tuple[str, list[Slot]]]:
    """One module may hold the same channels twice, when they are concatenated twice."""
    names = list(dict.fromkeys(slot.name for slot in slots))
    return [(name, [slot for slot in slots if slot.name == name]) for name in names]


def _wanted(slots: Sequence[Slot], size: int, kept: torch.Tensor, total: int) -> torch.Tensor:
    import torch

    stays = torch.ones(total, dtype=torch.bool)
    for slot in slots:
        stays[features(slot, torch.arange(size))] = False
        stays[features(slot, kept)] = True
    return stays.nonzero().flatten()


def _moved(slots: Sequence[Slot], size: int, order: torch.Tensor, total: int) -> torch.Tensor:
    import torch

    found = torch.arange(total)
    for slot in slots:
        found[features(slot, torch.arange(size))] = features(slot, order)
    return found


def _field(layer: Any, side: str) -> str:
    return f"{side}_channels" if hasattr(layer, f"{side}_channels") else f"{side}_features"


def _slice(layer: Any, names: tuple[str, ...], wanted: torch.Tensor) -> None:
    from torch import nn

    for name in names:
        value = getattr(layer, name, None)
        if value is None:
            continue
        part = value.detach()[wanted]
        setattr(layer, name, _parameter(part) if isinstance(value, nn.Parameter) else part.clone())


def _parameter(values: torch.Tensor) -> nn.Parameter:
    from torch import nn

    return nn.Parameter(values.clone())
