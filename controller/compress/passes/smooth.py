"""SmoothQuant before quantization: ``s_j = max|X_j|^α / max|W_j|^(1-α)``, same function.

See `controller.compress.quantize.smooth` for the method and its source (Xiao et al., 2022). It
needs inputs and no labels. *Experimental*: see `tests/benchmarks/compression` for its numbers.
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
class Smooth(Pass):
    """Move a share ``alpha`` (0…1) of the activations' unevenness into the weights."""

    name: ClassVar[str] = "smooth"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise FitError(f"{self.name}: alpha is between 0 and 1, not {self.alpha}")

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import smooth

        made = smooth.smooth(candidate.payload, context.calibration, alpha=self.alpha)
        if not made.factors:
            raise FitError(
                "nothing can be smoothed: no layer reads what a layer, a norm or a constant product"
                f" wrote{': ' + made.left_alone[0] if made.left_alone else ''}"
            )
        logs = [float(np.abs(np.log(moved)).max()) for moved in made.factors.values()]
        return Applied(
            payload=made.model,
            numbers={
                "tensors": len(made.factors),
                "left_alone": len(made.left_alone),
                "largest_factor": float(np.exp(max(logs))),
            },
            notes=tuple(f"left alone: {line}" for line in made.left_alone),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        inputs = context.calibration[:GOLDEN].copy()
        expected = onnx_tidy.answer(before.payload, inputs)
        found = onnx_tidy.answer(after.payload, inputs)
        error = float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-12))
        if not error <= TOLERANCE:
            raise FitError(f"smoothing changed the outputs by {error:.2e} of their largest")
        return {"golden_error": error}
