"""Structured pruning with a width for each layer, by the device's own kernel table.

NetAdapt (see `controller.compress.prune.netadapt`): cuts are paid for in predicted latency and
judged by accuracy on guard data after a short recovery. Without a table the cost is the number of
multiply-accumulates, which no device promises to be its time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controller.catalog.workload import GUARD
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes.distil import Distil
from controller.compress.passes.prune_structured import (
    cuttable,
    example_of,
    left_alone,
    material,
    narrow,
    same_shape,
)
from controller.compress.predict import predict
from controller.compress.prune import netadapt, shapes
from controller.compress.prune.criteria import CRITERIA
from controller.compress.prune.surgery import parameters
from controller.errors import FitError
from fitment.core.kernels import KernelTable

if TYPE_CHECKING:
    from torch import nn

BATCH = 256  # of guard inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneAdapted(Pass):
    """Cut channels until the predicted cost is ``target`` of what it was.

    ``first``, ``decay``: the steps down, in shares of the cost at the start. ``batches``: of the
    short recovery after each trial cut, with inputs of their own in each round. ``judged``: guard
    inputs that judge a trial. ``table``, ``scheme``: what predicts; no table counts
    multiply-accumulates.
    """

    name: ClassVar[str] = "prune_adapted"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED, Property.PRUNED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.PRUNED})

    target: float = 0.3
    multiple_of: int = 8
    criterion: str = "l2"
    first: float = 0.15
    decay: float = 0.97
    batches: int = 10
    learning_rate: float = 0.02
    judged: int = 1024
    scheme: str = "fp32"
    table: KernelTable | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target < 1 or self.criterion not in CRITERIA or self.batches < 1:
            raise FitError(
                f"{self.name}: a target between 0 and 1, at least one batch and a criterion of "
                f"{', '.join(CRITERIA)} are needed, not {self.text}"
            )

    @property
    def text(self) -> str:
        """The step for people; of the table only whose it is."""
        shown = {**self.settings, "table": "macs" if self.table is None else self.table.runtime}
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        module = copy.deepcopy(candidate.payload).eval()
        ground = _Networks(self, module, context)
        if not ground.widths(module):
            reasons = "; ".join(sorted({s.frozen for s in ground.spaces if s.frozen}))
            raise FitError(f"no channels can be removed: {reasons or 'there are none'}")
        pace = netadapt.Pace(first=self.first, decay=self.decay, multiple_of=self.multiple_of)
        cost = ground.cost(ground.widths(module))
        found = netadapt.adapt(module, ground, target=self.target * cost, pace=pace)
        unit = "macs" if self.table is None else "ms"
        return Applied(
            payload=found.state,
            numbers={
                f"{unit}_before": found.cost_before,
                f"{unit}_after": found.cost,
                "steps": len(found.steps),
                "reached": float(found.reached),
                "parameters_before": parameters(module),
                "parameters_after": parameters(found.state),
            },
            notes=(*ground.told(found.state, found.steps, unit), *left_alone(ground.spaces)),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        return same_shape(before, after, context)


class _Networks:
    """Torch modules as the ground of the search; the widths are those of their free spaces."""

    def __init__(self, step: PruneAdapted, module: nn.Module, context: Context) -> None:
        self._step, self._context = step, context
        self._example = example_of(context)
        self.spaces = cuttable(module, self._example)
        self._layers = shapes.shapes(module, self._example)
        self._seen = material(step.criterion, context)

    def widths(self, state: nn.Module) -> dict[int, int]:
        """Widths of the spaces that may be cut."""
        spaces = cuttable(state, self._example)
        return {i: s.size for i, s in enumerate(spaces) if not s.frozen}

    def cost(self, widths: netadapt.Widths) -> float:
        """Milliseconds predicted by the table, or multiply-accumulates."""
        layers = shapes.resized(self._layers, self.spaces, widths)
        if self._step.table is None:
            return float(sum(layer.macs for layer in layers))
        return predict(layers, self._step.table, self._step.scheme).value

    def narrowed(self, state: nn.Module, index: int, width: int, number: int) -> nn.Module:
        """Cut, then a few batches of distillation."""
        module = copy.deepcopy(state)
        narrow(module, {index: width}, CRITERIA[self._step.criterion], self._seen)
        if self._context.teacher is None:
            return module
        batch = Distil().batch
        recovery = Distil(
            epochs=1,
            batch=batch,
            samples=self._step.batches * batch,
            learning_rate=self._step.learning_rate,
        )
        # Other inputs in each round, the same for all of its trials.
        context = replace(self._context, seed=self._context.seed + 1 + number)
        made = Candidate(form=Form.TORCH, payload=module)
        recovered: nn.Module = recovery.apply(made, context).payload
        return recovered

    def quality(self, state: nn.Module) -> float:
        """The workload's metric on guard data."""
        import torch

        split = self._context.splits[GUARD]
        count = min(len(split), self._step.judged)
        outputs = []
        with torch.inference_mode():
            for start in range(0, count, BATCH):
                real = self._context.workload.real(split.inputs[start : min(start + BATCH, count)])
                outputs.append(state(torch.from_numpy(real.copy())).numpy())
        return self._context.workload.metric(np.concatenate(outputs), split.labels[:count])

    def told(self, state: nn.Module, steps: Any, unit: str) -> tuple[str, ...]:
        """The widths, and what each round did, a line each."""
        widths = self.widths(state)
        listed = ", ".join(
            f"{'+'.join(self.spaces[i].producers)} {w} of {self.spaces[i].size}"
            for i, w in widths.items()
        )
        rounds = (
            f"round {n}: {'+'.join(self.spaces[s.index].producers)} to {s.width}, "
            f"{s.cost:.4g} {unit}, {s.quality:.4f} on the guard set"
            for n, s in enumerate(steps, 1)
        )
        return (f"widths: {listed}", *rounds)
