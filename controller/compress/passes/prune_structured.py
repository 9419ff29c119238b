"""Structured pruning: remove whole channels, so that every runtime gets faster.

Channels are cut by the same ratio in every space that the tracer leaves free, and what is kept
is rounded up to a multiple that the target's kernels like. Accuracy is lost here and must be
recovered by the next pass.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controller.catalog.workload import TRAIN
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes.channels import OUTPUT, ChannelTracer, Space
from controller.compress.prune.criteria import CRITERIA, Criterion, Material
from controller.compress.prune.surgery import parameters, remove
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

SAMPLES = 512  # inputs for criteria that look at some


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStructured(Pass):
    """Cut ``ratio`` of the channels of every free space.

    ``criterion``: which go, by name (`controller.compress.prune.criteria`). The ratio is of the
    channels that the user's own network has, so that rounds of pruning need not know each other.
    ``tables``: cut the words of embeddings narrower, too. That halves a text network's transfer and
    costs it more than its layers do (`tests/benchmarks/compression/subjects`).
    """

    name: ClassVar[str] = "prune_structured"
    version: ClassVar[int] = 2
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED, Property.PRUNED})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.PRUNED})

    ratio: float = 0.5
    multiple_of: int = 8
    criterion: str = "l1"
    tables: bool = False

    one_of_many: ClassVar[bool] = False  # a step that may have nothing to do

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.multiple_of < 1 or self.criterion not in CRITERIA:
            raise FitError(
                f"{self.name}: a ratio between 0 and 1, a multiple ≥ 1 and a criterion of "
                f"{', '.join(CRITERIA)} are needed, not {self.settings}"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        module = copy.deepcopy(candidate.payload).eval()
        example = example_of(context)
        spaces = cuttable(module, example, tables=self.tables)
        whole = self._whole_sizes(spaces, context, example)
        widths = {
            index: min(space.size, self.kept(whole[index]))
            for index, space in enumerate(spaces)
            if not space.frozen
        }
        cut = {i: width for i, width in widths.items() if width < spaces[i].size}
        if not cut and not (self.one_of_many and widths):
            reasons = "; ".join(sorted({s.frozen for s in spaces if s.frozen}))
            raise FitError(f"no channels can be removed: {reasons or 'there are too few'}")
        before = parameters(module)
        seen = material(self.criterion, context)
        narrow(module, cut, CRITERIA[self.criterion], seen, tables=self.tables)
        return Applied(
            payload=module,
            numbers={
                "channels_before": sum(s.size for s in spaces),
                "channels_removed": sum(spaces[i].size - width for i, width in cut.items()),
                "spaces_frozen": sum(bool(s.frozen) for s in spaces),
                "parameters_before": before,
                "parameters_after": parameters(module),
            },
            notes=left_alone(spaces),
        )

    def kept(self, size: int) -> int:
        """How many of ``size`` channels stay: rounded up to the multiple."""
        exact = (1.0 - self.ratio) * size / self.multiple_of
        return min(size, max(1, math.ceil(exact - 1e-9)) * self.multiple_of)

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        return same_shape(before, after, context)

    def _whole_sizes(
        self, spaces: list[Space], context: Context, example: torch.Tensor
    ) -> list[int]:
        """Channels of each space in the user's own network; as they are where that is not known."""
        own = (
            None
            if context.teacher is None
            else cuttable(context.teacher, example, tables=self.tables)
        )
        if own is None or [s.producers for s in own] != [s.producers for s in spaces]:
            return [space.size for space in spaces]
        return [space.size for space in own]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRound(PruneStructured):
    """One of several rounds of pruning, with recovery between them.

    Rounding to the multiple may leave a round with nothing to do.
    """

    name: ClassVar[str] = "prune_round"
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})
    one_of_many: ClassVar[bool] = True


def cuttable(module: nn.Module, example: torch.Tensor, *, tables: bool = False) -> list[Space]:
    """All spaces that some layer makes, in the order of the graph; frozen ones among them.

    ``tables``: embeddings, too.
    """
    traced = ChannelTracer(module, example, tables=tables).spaces()
    return [space for space in traced if space.producers]


def narrow(
    module: nn.Module,
    widths: dict[int, int],
    criterion: Criterion,
    seen: Material,
    *,
    tables: bool = False,
) -> None:
    """Cut spaces (by index) to ``widths`` in place, one after the other.

    Each is judged in the network that the cuts before it left.
    """
    if seen.inputs is None:
        raise FitError("two inputs are needed to trace the network")
    for index, width in widths.items():
        # Places move when a neighbour is cut.
        space = cuttable(module, seen.inputs[:2], tables=tables)[index]
        scores = criterion.scores(module, space, seen)
        kept = scores.argsort(descending=True, stable=True)[:width].sort().values
        criterion.mend(module, space, kept, seen)
        remove(module, space, kept)


def material(criterion: str, context: Context) -> Material:
    """What a criterion looks at.

    Training data with its labels, or else calibration inputs with the user's network's answers.
    Criteria that look at weights alone get two inputs, for tracing.
    """
    import torch

    if not CRITERIA[criterion].needs_inputs:
        return Material(inputs=example_of(context), seed=context.seed)
    split = context.training
    chosen = np.random.default_rng(context.seed).permutation(len(split))[:SAMPLES]
    inputs = torch.from_numpy(context.workload.real(split.inputs[chosen]).copy())
    labels = split.labels[chosen] if TRAIN in context.splits else None
    return Material(inputs=inputs, labels=_classes(inputs, labels, context), seed=context.seed)


def example_of(context: Context) -> torch.Tensor:
    """Two real inputs, for tracing."""
    import torch

    return torch.from_numpy(context.calibration[:2].copy())


def same_shape(before: Candidate, after: Applied, context: Context) -> Numbers:
    """Check that a pruned network answers, in the shape in which it did.

    Raises:
        FitError: it does not.
    """
    import torch

    inputs = example_of(context)
    with torch.inference_mode():
        expected, found = before.payload(inputs), after.payload(inputs)
    if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
        raise FitError(
            f"the pruned network answers with shape {tuple(found.shape)} instead of "
            f"{tuple(expected.shape)}, or not with finite numbers"
        )
    return {}


def left_alone(spaces: list[Space]) -> tuple[str, ...]:
    """One line for each space that may not be cut, the model's own outputs aside."""
    return tuple(
        f"left alone: {', '.join(s.producers)} ({s.size} channels): {s.frozen}"
        for s in spaces
        if s.frozen not in ("", OUTPUT)
    )


def _classes(
    inputs: torch.Tensor, labels: np.ndarray | None, context: Context
) -> torch.Tensor | None:
    import torch

    if context.teacher is None:
        return None
    with torch.inference_mode():
        answers: torch.Tensor = context.teacher.eval()(inputs)
    if answers.ndim != 2 or answers.shape[1] < 2:
        return None
    if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        return torch.from_numpy(labels.astype(np.int64))
    return answers.argmax(dim=1).clone()
