"""Bias correction: give back the shift of the mean that rounding weights causes, by channel.

    b += E[W x] − E[Ŵ x̂]

Fitted on one half of the calibration set and judged on the other; undone when it does harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from controller.compress import evidence
from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property
from controller.compress.passes import onnx_tidy


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasCorrect(Pass):
    """Correct the biases of a statically quantized model."""

    name: ClassVar[str] = "bias_correct"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    requires: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})
    guarded: ClassVar[bool] = True

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import bias

        inputs = context.calibration[::2]
        return Applied(payload=bias.correct(candidate.fp32, candidate.payload, inputs))

    def score(self, candidate: Candidate, payload: Any, context: Context) -> float:
        inputs = context.calibration[1::2]
        reference = onnx_tidy.answer(candidate.fp32, inputs)
        found = evidence.sqnr_db(reference, onnx_tidy.answer(payload, inputs))
        return float("inf") if found is None else found
