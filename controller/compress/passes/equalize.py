"""Cross-layer equalization before quantization: ``s_i = √(r¹_i / r²_i)``, same function.

See `controller.compress.quantize.equalize` for the method and its source (Nagel et al., 2019). It
needs inputs and no labels; layers that it cannot treat exactly are left alone and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes import onnx_tidy
from controller.errors import FitError

GOLDEN = 8
TOLERANCE = 1e-4  # relative to the largest output: float32 sums of other magnitudes


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalize(Pass):
    """Even out the ranges of channels between layers. For weights with one scale for all."""

    name: ClassVar[str] = "equalize"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import equalize

        made = equalize.equalize(candidate.payload, context.calibration)
        return Applied(
            payload=made.model,
            numbers={
                "seams": len(made.seams),
                "left_alone": len(made.left_alone),
                "clips_to_relu": len(made.unclipped),
                "largest_factor": made.largest_factor,
            },
            notes=tuple(f"left alone: {line}" for line in made.left_alone),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        inputs = context.calibration[:GOLDEN].copy()
        expected = onnx_tidy.answer(before.payload, inputs)
        found = onnx_tidy.answer(after.payload, inputs)
        error = float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-12))
        if not error <= TOLERANCE:
            raise FitError(f"equalizing changed the outputs by {error:.2e} of their largest")
        return {"golden_error": error}
