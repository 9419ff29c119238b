"""Shortening: fewer and earlier-shrinking layers, for devices that pay for every layer.

A small network's time is not its multiply-adds: each layer costs its start, and a layer on large
maps its memory traffic. Cutting channels leaves both. Two steps change the depth instead:

- *drop*: a convolution, its normalization and its activation are taken out, and the convolution
  that received its result is refitted to answer from what went in;
- *merge*: a convolution and the 2x2 pooling after it become one convolution of stride two.

The refit is least squares on unlabelled calibration inputs (`passes.refit`); distillation must
follow. Dropping whole layers of a trained network goes back to Chen and Zhao, *Shallowing Deep
Networks* (2018); that activations foretell latency better than multiply-adds to Radosavovic et
al., *Designing Network Design Spaces* (2020).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

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
from controller.compress.passes.refit import leaving, refit
from controller.compress.passes.units import Unit, activations, replaced, units
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

INPUTS = 128  # calibration inputs to refit and to judge with
SEARCHED = 40  # networks that are looked at from, at most
WIDER = 2  # rows that 2x2 pooling adds to what a kernel sees


@dataclass(frozen=True, slots=True, order=True)
class _State:
    """One shortened network of the search; those that answer best come first."""

    loss: float
    number: int
    cost: float = field(compare=False)
    module: nn.Module = field(compare=False)
    dropped: int = field(default=0, compare=False)
    merged: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shorten(Pass):
    """Drop and merge layers until no more than the share ``activations`` is left to write.

    Activations are what convolutions and linear layers write. Of all networks that keep to it,
    the search looks for the one whose answers on calibration inputs are closest to the original's
    (KL, in nats; before any training): best first, each structure once. Multiply-adds are left
    to pruning.
    """

    name: ClassVar[str] = "shorten"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED, Property.PRUNED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.SHORTENED})

    activations: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.activations < 1:
            raise FitError(
                f"{self.name}: a share of activations between 0 and 1 is needed, "
                f"not {self.activations}"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        torch.set_num_threads(TRAINING_THREADS)
        inputs = torch.from_numpy(context.calibration[:INPUTS].copy())
        judge = _Judge(candidate.payload.eval(), inputs)
        found = self._search(judge)
        return Applied(
            payload=found.module,
            numbers={
                "dropped": found.dropped,
                "merged": found.merged,
                "activations": found.cost,
                "disagreement": found.loss,
            },
        )

    def _search(self, judge: _Judge) -> _State:
        """The best network within the share, or the cheapest that was seen."""
        numbers, seen = count(), {_structure(judge.original)}
        waiting = [_State(0.0, next(numbers), 1.0, judge.original)]
        cheapest = waiting[0]
        for _ in range(SEARCHED):
            if not waiting:
                break
            state = heapq.heappop(waiting)
            cheapest = min(cheapest, state, key=lambda s: s.cost)
            if state.cost <= self.activations:
                return state
            for change in _changes(state.module, judge.inputs):
                shape = _structure(change.bare)
                cost = judge.cost(change.bare)
                if shape in seen or cost >= state.cost:
                    continue
                seen.add(shape)
                module = change.make()
                made = _State(
                    judge.loss(module), next(numbers), cost, module,
                    state.dropped + change.drops, state.merged + (not change.drops),
                )  # fmt: skip
                heapq.heappush(waiting, made)
        if cheapest.cost == 1.0:
            raise FitError("no layer can be dropped or merged: none is a plain chain")
        return cheapest

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        import torch

        inputs = torch.from_numpy(context.calibration[:2].copy())
        with torch.inference_mode():
            expected, found = before.payload(inputs), after.payload(inputs)
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            raise FitError(
                f"the shortened network answers with shape {tuple(found.shape)} instead of "
                f"{tuple(expected.shape)}, or not with finite numbers"
            )
        return {}


class _Judge:
    """How much a network writes, and how far its answers are from the original's."""

    def __init__(self, original: nn.Module, inputs: torch.Tensor) -> None:
        self.original, self.inputs = original, inputs
        self._whole = activations(original, inputs)
        self._answers = self._run(original)

    def cost(self, module: nn.Module) -> float:
        return activations(module, self.inputs) / self._whole

    def loss(self, module: nn.Module) -> float:
        from torch.nn import functional

        found, expected = self._run(module), self._answers
        if expected.ndim != 2 or expected.shape[1] == 1:
            spread = float(expected.var().clamp_min(1e-12))
            return float(functional.mse_loss(found, expected)) / spread
        soft = functional.log_softmax(expected, dim=1)
        return float(
            functional.kl_div(
                functional.log_softmax(found, dim=1), soft, reduction="batchmean", log_target=True
            )
        )

    def _run(self, module: nn.Module) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            return torch.cat([module(batch) for batch in torch.split(self.inputs, 64)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """One layer less; ``bare`` has its structure, and ``make`` refits it, which is dear."""

    drops: bool
    bare: nn.Module
    make: Callable[[], nn.Module]


def _changes(module: nn.Module, inputs: torch.Tensor) -> Iterator[_Change]:
    for unit in units(module):
        if unit.receiver:
            bare = without(module, unit)
            make = partial(drop, module, unit, inputs)
            yield _Change(drops=True, bare=bare, make=make)
        if unit.pool:
            bare = strided(module, unit)
            make = partial(merge, module, unit, inputs)
            yield _Change(drops=False, bare=bare, make=make)


def _structure(module: nn.Module) -> str:
    """What distinguishes one shortened network from another: its layers' shapes, in order."""
    from torch import nn

    shapes = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            shapes.append(f"conv {tuple(layer.weight.shape)} {layer.stride}")
        elif not list(layer.children()) and not isinstance(layer, nn.Identity):
            shapes.append(type(layer).__name__)
    return "; ".join(shapes)


def without(module: nn.Module, unit: Unit) -> nn.Module:
    """A copy without the unit's layers, whose receiver is blank. The pooling stays."""
    from torch import nn

    gone: Any = module.get_submodule(unit.conv)
    receiver = _conv(module.get_submodule(unit.receiver), channels=gone.in_channels)
    changes = {n: nn.Identity() for n in (unit.conv, unit.norm, unit.activation) if n}
    return replaced(module, {**changes, unit.receiver: receiver})


def drop(module: nn.Module, unit: Unit, inputs: torch.Tensor) -> nn.Module:
    """A copy without the unit's layers; its receiver answers as before, as far as it can."""
    made = without(module, unit)
    refit(made, unit.receiver, lambda batch: leaving(module, unit.receiver, batch), inputs)
    return made


def strided(module: nn.Module, unit: Unit) -> nn.Module:
    """A copy in which the unit's convolution is blank, has stride two, and no pooling follows."""
    from torch import nn

    old: Any = module.get_submodule(unit.conv)
    new = _conv(old, channels=old.in_channels, wider=WIDER, stride=2)
    return replaced(module, {unit.conv: new, unit.pool: nn.Identity()})


def merge(module: nn.Module, unit: Unit, inputs: torch.Tensor) -> nn.Module:
    """A copy in which the unit's convolution answers what was pooled before, as far as it can.

    Normalization with a negative scale turns the largest into the smallest, so such channels are
    turned before they are pooled.
    """
    import torch

    old: Any = module.get_submodule(unit.conv)
    pool = module.get_submodule(unit.pool)
    signs = torch.ones(old.out_channels)
    if unit.norm:
        scale: Any = module.get_submodule(unit.norm).weight
        signs = signs if scale is None else torch.where(scale.detach() < 0, -1.0, 1.0)
    signs = signs[None, :, None, None]

    def wanted(batch: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = pool(leaving(module, unit.conv, batch) * signs)
        return pooled * signs

    made = strided(module, unit)
    refit(made, unit.conv, wanted, inputs)
    return made


def _conv(old: Any, *, channels: int, wider: int = 0, stride: int = 0) -> nn.Module:
    from torch import nn

    kernel = tuple(k + wider for k in old.kernel_size)
    return nn.Conv2d(
        channels,
        old.out_channels,
        kernel,
        stride=stride or old.stride,
        padding=tuple(p + wider // 2 for p in old.padding),
        bias=old.bias is not None,
    )
