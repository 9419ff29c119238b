"""Zeros among a torch module's weights that stay zero while it is trained, *size only*.

Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878): a mask is chosen, the network
recovers under it, a larger mask is chosen among what it learned, and so on
(`controller.compress.prune.schedule.weight_rounds`). Layers share one threshold over their LAMP
scores, which need no scale in common (see `controller.compress.prune.sparse.lamp`).

The mask is held by a hook in front of each layer, so that whatever trains the network needs not
know of it; `SettleWeights` applies it for good and takes the hooks away.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes.prune_structured import same_shape
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWeights(Pass):
    """Hold ``sparsity`` of the weights at zero, all layers together.

    ``floor``: share of its weights that each layer keeps at least. ``ends``: the first and the
    last layer too.
    """

    name: ClassVar[str] = "prune_weights"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.PRUNED, Property.SPARSE})

    sparsity: float = 0.5
    floor: float = 0.1
    ends: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1 or not 0 <= self.floor < 1:
            raise FitError(
                f"{self.name}: a sparsity between 0 and 1 and a floor of at least 0 and below 1 "
                f"are needed, not {self.settings}"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        from controller.compress.prune.sparse import floor, lamp

        del context
        module = copy.deepcopy(candidate.payload).eval()
        settle(module)  # an earlier round's mask; its zeros have the lowest scores
        layers = dict(_layers(module, ends=self.ends))
        if not layers:
            raise FitError("no weights can be pruned: there are too few layers")
        scores = {
            name: lamp.scores(layer.weight.detach().double().flatten(1).numpy())
            for name, layer in layers.items()
        }
        chosen = floor.across_layers(scores, self.sparsity, self.floor)
        for name, layer in layers.items():
            mask = torch.from_numpy(chosen.stays[name]).reshape(layer.weight.shape)
            hold = _Hold(mask.to(layer.weight.dtype))
            layer.register_forward_pre_hook(hold)
            hold(layer, ())
        zeros = [float((layer.weight == 0).float().mean()) for layer in layers.values()]
        return Applied(
            payload=module,
            numbers={
                "layers": len(zeros),
                "least_zeros": min(zeros),
                "most_zeros": max(zeros),
                "trapped_layers": len(chosen.trapped),
            },
            notes=tuple(trapped.text for trapped in chosen.trapped),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        return same_shape(before, after, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleWeights(Pass):
    """Make held zeros final. To be done before anything looks at the weights."""

    name: ClassVar[str] = "settle_weights"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    requires: ClassVar[frozenset[Property]] = frozenset({Property.SPARSE})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        del context
        module = copy.deepcopy(candidate.payload).eval()
        found = settle(module)
        if not found:
            raise FitError("no layer holds a mask: prune weights first")
        return Applied(payload=module, numbers={"layers": found})


def settle(module: nn.Module) -> int:
    """Apply and remove all masks in place; how many layers had one."""
    found = 0
    for layer in module.modules():
        hooks: Any = layer._forward_pre_hooks  # noqa: SLF001 - torch has no public way to list them
        for key, hook in list(hooks.items()):
            if isinstance(hook, _Hold):
                hook(layer, ())
                del hooks[key]
                found += 1
    return found


class _Hold:
    """Sets what is not in the mask to zero before a layer is used."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, layer: Any, _inputs: Any) -> None:
        import torch

        with torch.no_grad():
            layer.weight.mul_(self.mask)


def _layers(module: nn.Module, *, ends: bool) -> Iterator[tuple[str, Any]]:
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
    yield from found if ends else found[1:-1]
