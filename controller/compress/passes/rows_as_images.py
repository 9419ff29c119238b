"""Give windows over rows (text, sound) the two axes that a runtime's kernels have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass
from controller.compress.passes import onnx_tidy
from controller.errors import FitError

TOLERANCE = 1e-4  # relative to the largest output: the same sums


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsAsImages(Pass):
    """[N, C, L] to [N, C, 1, L] around one-dimensional convolutions and pooling."""

    name: ClassVar[str] = "rows_as_images"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.graph.images import as_images

        del context
        made, count = as_images(candidate.payload)
        return Applied(payload=made if count else candidate.payload, numbers={"layers": count})

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        if not after.numbers["layers"]:
            return {}
        inputs = context.calibration[:4]
        expected = onnx_tidy.answer(before.payload, inputs)
        found = onnx_tidy.answer(after.payload, inputs)
        error = float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-12))
        if not error <= TOLERANCE:
            raise FitError(f"rows as images changed the outputs by {error:.2e} of their largest")
        return {"golden_error": error}
