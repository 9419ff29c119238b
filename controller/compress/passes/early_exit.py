"""Early exit as two passes: attach a trained head to the torch network, branch the ONNX graph.

Between them the graph is straight: it computes both answers, and quantization treats it like any
other. ``BranchExit`` is the last step of a recipe. It chooses the confidence that an input needs
to leave early on the guard set, on the file as it is by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.catalog.workload import GUARD
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
from controller.compress.distillation import features, methods, training
from controller.compress.passes import onnx_tidy
from controller.compress.passes.distil import Distil
from controller.errors import FitError

if TYPE_CHECKING:
    import torch

STEPS = 200  # thresholds tried
GOLDEN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachExit(Pass):
    """A head of two small convolutions at the feature number ``at``, 0 the earliest.

    Features are where `features.points` finds them. The head learns from the workload's module as
    in `Distil`; the rest is frozen, so that the whole network's answers stay what they were.
    """

    name: ClassVar[str] = "attach_exit"
    takes: ClassVar[Form] = Form.TORCH
    gives: ClassVar[Form] = Form.TORCH
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.FOLDED})

    at: int = 0
    hidden: int = 48
    epochs: int = 3
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.1
    temperature: float = 4.0
    alpha: float = 0.9
    precision: str = "auto"
    max_seconds: float = 600.0

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        import torch

        from controller.compress.dynamic import exits

        torch.set_num_threads(TRAINING_THREADS)
        torch.manual_seed(context.seed)  # of the head's first weights
        place, shape, classes = self._place(candidate.payload, context)
        head = exits.head(shape[0], min(shape[1:]), classes, self.hidden)
        student = exits.Stem(exits.stem_of(candidate.payload, place), head)
        settings = Distil(
            epochs=self.epochs,
            samples=self.samples,
            batch=self.batch,
            learning_rate=self.learning_rate,
            alpha=self.alpha,
            precision=self.precision,
            max_seconds=self.max_seconds,
        )
        method = methods.make("hinton", temperature=self.temperature, alpha=self.alpha)
        numbers = training.train(
            student, settings.lesson(method, context), method, settings.schedule(context)
        )
        made = exits.with_exit(candidate.payload, place, student.head)
        return Applied(payload=made, numbers={**numbers, "exit_resolution": float(shape[1])})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        """As long as no input is confident enough, the answers are the network's own."""
        import torch

        inputs = torch.from_numpy(context.calibration[:GOLDEN].copy())
        with torch.inference_mode():
            same = torch.equal(before.payload(inputs), after.payload(inputs))
        if not same:
            raise FitError("attaching the exit changed the network's answers")
        return {}

    def _place(self, module: Any, context: Context) -> tuple[str, tuple[int, ...], int]:
        """Module after which the exit comes, its feature's [C, H, W], and the classes."""
        import torch

        example = torch.from_numpy(context.calibration[:2].copy())
        found = [(s, n) for s, n in features.points(module, example).items() if len(s) == 2]
        if len(found) < 2 or not 0 <= self.at < len(found) - 1:
            raise FitError(
                f"no exit at feature {self.at}: the network has {len(found)} resolutions of "
                "two-dimensional convolutions, and one must be left after the exit"
            )
        place = found[self.at][1]
        with features.tapped(module, [place]) as taken, torch.inference_mode():
            outputs: torch.Tensor = module(example)
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise FitError("an exit needs class scores, to tell how sure it is")
        return place, tuple(taken[place].shape[1:]), outputs.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchExit(Pass):
    """Leave early where the guard metric then falls by at most ``loss_max``."""

    name: ClassVar[str] = "branch_exit"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX

    loss_max: float = 0.002

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.dynamic import branch

        guard = context.splits[GUARD]
        early, final = branch.both_answers(candidate.payload, context.workload.real(guard.inputs))
        sure = branch.confidence(early)
        whole = context.workload.metric(final, guard.labels)

        def loss(threshold: float) -> float:
            chosen = np.where((sure > threshold)[:, None], early, final)
            return whole - context.workload.metric(chosen, guard.labels)

        threshold = lowest(sure, loss, self.loss_max)
        if threshold is None:
            raise FitError(f"no input may leave early for a loss of {self.loss_max} at most")
        return Applied(
            payload=onnx_tidy.tidy(branch.branched(candidate.payload, threshold)),
            numbers={
                "threshold": threshold,
                "guard_exits": float((sure > threshold).mean()),
                "guard_loss": loss(threshold),
                "exit_loss": whole - context.workload.metric(early, guard.labels),
            },
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        """One by one and together, inputs get the answer that the straight graph selects."""
        from controller.compress.dynamic import branch

        inputs = context.calibration[:GOLDEN].copy()
        early, final = branch.both_answers(before.payload, inputs)
        sure = branch.confidence(early)
        threshold = after.numbers["threshold"]
        clear = np.abs(sure - threshold) > 1e-4  # rounding may turn a tie
        expected = np.where((sure > threshold)[:, None], early, final)[clear]
        single = np.concatenate([onnx_tidy.answer(after.payload, i[None]) for i in inputs])[clear]
        together = onnx_tidy.answer(after.payload, inputs)[clear]
        scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
        error = max(float(np.abs(f - expected).max(initial=0.0)) for f in (single, together))
        if not error / scale <= 0.05:
            raise FitError(f"the branched graph answers otherwise, by {error / scale:.2e}")
        return {"golden_error": error / scale}


def lowest(sure: NDArray[np.float32], loss: Any, loss_max: float) -> float | None:
    """The lowest threshold down to which no tried one loses more than ``loss_max``.

    Thresholds are tried from high to low, so that a lucky low one behind worse ones is not taken.
    None when not one input leaves early.
    """
    tried = np.unique(np.quantile(sure, np.linspace(0.0, 1.0, STEPS, endpoint=False)))
    best = None
    for threshold in tried[::-1]:
        if not loss(float(threshold)) <= loss_max:
            break
        best = float(threshold)
    return best
