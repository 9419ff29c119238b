"""Store weights that stayed float in eight bits: *size only*, and it costs time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress import evidence
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes import onnx_tidy
from controller.errors import FitError

SIZE_ONLY = "size only: these weights are made floats again in every run"
JUDGED = 64  # inputs that the check compares


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreWeights(Pass):
    """For recurrent layers and for what branches read: no integer kernel of ours computes them."""

    name: ClassVar[str] = "store_weights"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    requires: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import storage

        del context
        chosen = storage.candidates(candidate.payload)
        if not chosen:
            raise FitError(f"no weights of {storage.LEAST} values or more stayed float")
        return Applied(
            payload=storage.store(candidate.payload),
            numbers={"tensors": len(chosen)},
            notes=(SIZE_ONLY, *(f"stored in eight bits: '{name}'" for name in chosen)),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        inputs = context.calibration[:JUDGED]
        expected = onnx_tidy.answer(before.payload, inputs)
        found = evidence.sqnr_db(expected, onnx_tidy.answer(after.payload, inputs))
        return {"sqnr_db": float("inf") if found is None else found}
