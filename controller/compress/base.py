"""Passes: one compression step each, whose promises are checked.

A pass says in which form it takes a model and in which it gives one back, which properties it
requires, refuses and ensures. `Pass.run` checks the declaration, runs the step, lets the pass
check its own result, and records the evidence. A guarded pass is undone when it does harm:
every step can hurt and none is monotone.
"""

from __future__ import annotations

import abc
import enum
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.catalog.workload import CALIBRATION, TRAIN, Split, Workload
from controller.errors import FitError
from fitment.core import plain

Numbers = Mapping[str, float]

TRAINING_THREADS = 1
"""Training takes one core, whatever else is allowed. The layers of a small network are too short to
share: beside two busy programs, two threads took five times as long as one, since each layer waits
for the slower. And a seed then gives the same weights on any number of cores.
"""


class Form(enum.Enum):
    """In which form a model is between two passes."""

    TORCH = "torch"  # a torch.nn.Module in eval mode
    ONNX = "onnx"  # an onnx.ModelProto
    TFLITE = "tflite"  # the bytes of a .tflite file


class Property(enum.Enum):
    """What is known to hold of a model."""

    FOLDED = "folded"  # no batch normalization follows a convolution
    PRUNED = "pruned"  # channels were removed, so accuracy must be recovered
    SHORTENED = "shortened"  # layers were removed, so accuracy must be recovered
    RECOVERED = "recovered"  # distilled after pruning
    SLIMMABLE = "slimmable"  # one network for several widths, or a width of one
    SPARSE = "sparse"  # has zeros among its weights, which later passes must keep
    STATIC = "static"  # weights and activations have int8 ranges
    DYNAMIC = "dynamic"  # int8 weights, activation ranges found at run time


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEvidence:
    """What one pass did, in numbers. ``kept`` is false when a guarded pass was undone."""

    step: str
    seconds: float
    numbers: Numbers = field(default_factory=dict)
    kept: bool = True
    notes: tuple[str, ...] = ()  # what was left alone and why, a line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model on its way through a recipe."""

    form: Form
    payload: Any
    properties: frozenset[Property] = frozenset()
    fp32: Any = None  # the float ONNX model that quantization started from
    evidence: tuple[PassEvidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What passes may use. Test data is not among it: test inputs choose nothing."""

    workload: Workload
    splits: Mapping[str, Split]
    teacher: Any = None  # the module as the user gave it, for distillation
    seed: int = 0
    threads: int = 1
    memory: dict[str, Any] = field(default_factory=dict)  # of this fit: teacher logits

    @property
    def calibration(self) -> NDArray[np.float32]:
        """Real inputs of the calibration set."""
        return self.workload.real(self.splits[CALIBRATION].inputs)

    @property
    def training(self) -> Split:
        """The training split, or the calibration set where there is none."""
        return self.splits.get(TRAIN, self.splits[CALIBRATION])


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a pass made."""

    payload: Any
    numbers: Numbers = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fp32: Any = None  # of a pass that trains while it quantizes: the float model with its weights


class Pass(abc.ABC):
    """One configured step. Subclasses are frozen dataclasses: their fields are the settings."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when the same settings give another result
    takes: ClassVar[Form]
    gives: ClassVar[Form]
    requires: ClassVar[frozenset[Property]] = frozenset()
    refuses: ClassVar[frozenset[Property]] = frozenset()
    ensures: ClassVar[frozenset[Property]] = frozenset()
    guarded: ClassVar[bool] = False

    @abc.abstractmethod
    def apply(self, candidate: Candidate, context: Context) -> Applied:
        """Do the step; the candidate's payload must not be changed in place."""

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        """Prove what the pass ensures; numbers of the proof become evidence.

        Raises:
            FitError: the result is not what the pass promises.
        """
        del before, after, context
        return {}

    def score(self, candidate: Candidate, payload: Any, context: Context) -> float:
        """How good ``payload`` is, higher is better. Guarded passes must define it."""
        del candidate, payload, context
        raise FitError(f"{self.name}: a guarded pass must define how it is scored")

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Check the declaration, apply, check the result, record.

        Raises:
            FitError: the candidate is not what the pass requires, or the result not what it
                promises; the message names the step.
        """
        self._check_declared(candidate)
        started = time.perf_counter()
        applied = self.apply(candidate, context)
        proof = self.check(candidate, applied, context)
        kept, judged = self._judge(candidate, applied, context)
        evidence = PassEvidence(
            step=self.text,
            seconds=time.perf_counter() - started,
            numbers=_finite({**applied.numbers, **proof, **judged}),
            kept=kept,
            notes=applied.notes,
        )
        record = (*candidate.evidence, evidence)
        if not kept:
            return replace(candidate, evidence=record)
        quantizes = bool(self.ensures & {Property.STATIC, Property.DYNAMIC})
        return Candidate(
            form=self.gives,
            payload=applied.payload,
            properties=candidate.properties | self.ensures,
            fp32=(applied.fp32 or candidate.payload) if quantizes else candidate.fp32,
            evidence=record,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings as plain values; they belong to the recipe's digest."""
        return {f.name: plain.to_plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """The step for people: ``prune_structured(ratio=0.5, multiple_of=8)``."""
        inner = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}({inner})" if inner else self.name

    def _check_declared(self, candidate: Candidate) -> None:
        if candidate.form is not self.takes:
            raise FitError(
                f"{self.name} takes a {self.takes.value} model, not a {candidate.form.value} one"
            )
        missing = self.requires - candidate.properties
        if missing:
            raise FitError(f"{self.name} requires a model that is {_spoken(missing)}")
        refused = self.refuses & candidate.properties
        if refused:
            raise FitError(f"{self.name} refuses a model that is {_spoken(refused)}")

    def _judge(
        self, candidate: Candidate, applied: Applied, context: Context
    ) -> tuple[bool, Numbers]:
        if not self.guarded:
            return True, {}
        before = self.score(candidate, candidate.payload, context)
        after = self.score(candidate, applied.payload, context)
        return after > before, {"score_before": before, "score_after": after}


def _spoken(properties: frozenset[Property]) -> str:
    return " and ".join(sorted(p.value for p in properties))


def _finite(numbers: Numbers) -> dict[str, float]:
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
