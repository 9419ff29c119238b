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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes.refit import leaving, refit
from controller.compress.passes.units import Unit, Work, replaced, units, work
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

INPUTS = 256  # calibration inputs to refit and to judge with


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One way to make the network shorter."""

    text: str
    module: nn.Module
    cost: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shorten(Pass):
    """Drop and merge layers until ``cost`` is what is left of the network's cost, or less.

    Cost is the mean of two shares of the original: multiply-adds, and elements that convolutions
    and linear layers write. Greedy: the step that saves most cost for each nat of disagreement
    with the network as it was (KL of the answers on calibration inputs) is taken first.
    """

    name: ClassVar[str] = "shorten"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED, Property.PRUNED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.SHORTENED})

    cost: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.cost < 1:
            raise FitError(f"{self.name}: a cost between 0 and 1 is needed, not {self.cost}")

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        torch.set_num_threads(context.threads)
        inputs = torch.from_numpy(context.calibration[:INPUTS].copy())
        judge = _Judge(candidate.payload.eval(), inputs)
        module, cost, loss, taken = judge.original, 1.0, 0.0, 0
        dropped = merged = 0
        while cost > self.cost:
            steps = [s for s in _steps(module, judge) if s.cost < cost]
            if not steps:
                break
            best = max(steps, key=lambda s: (cost - s.cost) / max(s.loss - loss, 1e-6))
            module, cost, loss, taken = best.module, best.cost, best.loss, taken + 1
            dropped += best.text == "drop"
            merged += best.text == "merge"
        if not taken:
            raise FitError("no layer can be dropped or merged: none is a plain chain")
        return Applied(
            payload=module,
            numbers={"dropped": dropped, "merged": merged, "cost": cost, "disagreement": loss},
        )

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
    """How dear a network is, and how far its answers are from the original's."""

    def __init__(self, original: nn.Module, inputs: torch.Tensor) -> None:
        self.original, self.inputs = original, inputs
        self._whole = work(original, inputs)
        self._answers = self._run(original)

    def step(self, text: str, module: nn.Module) -> _Step:
        return _Step(text=text, module=module, cost=self.cost(module), loss=self.loss(module))

    def cost(self, module: nn.Module) -> float:
        now: Work = work(module, self.inputs)
        shares = now.macs / self._whole.macs, now.activations / self._whole.activations
        return sum(shares) / 2

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


def _steps(module: nn.Module, judge: _Judge) -> Iterator[_Step]:
    """Every single step from here, refitted and judged."""
    for unit in units(module):
        if unit.receiver:
            yield judge.step("drop", drop(module, unit, judge.inputs))
        if unit.pool:
            for wider in (0, 2):
                yield judge.step("merge", merge(module, unit, judge.inputs, wider=wider))


def drop(module: nn.Module, unit: Unit, inputs: torch.Tensor) -> nn.Module:
    """A copy without the unit's layers; its receiver is refitted. The pooling stays."""
    from torch import nn

    gone: Any = module.get_submodule(unit.conv)
    old: Any = module.get_submodule(unit.receiver)
    new = _conv(old, channels=gone.in_channels)
    changes = {n: nn.Identity() for n in (unit.conv, unit.norm, unit.activation) if n}
    made = replaced(module, {**changes, unit.receiver: new})
    refit(made, unit.receiver, lambda batch: leaving(module, unit.receiver, batch), inputs)
    return made


def merge(module: nn.Module, unit: Unit, inputs: torch.Tensor, *, wider: int) -> nn.Module:
    """A copy in which the convolution has stride two, and a kernel ``wider`` than it was.

    What it should answer is the pooled answer of before. Normalization with a negative scale
    turns the largest into the smallest, so such channels are turned before they are pooled.
    """
    import torch
    from torch import nn

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

    new = _conv(old, channels=old.in_channels, wider=wider, stride=2)
    made = replaced(module, {unit.conv: new, unit.pool: nn.Identity()})
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
