"""Dynamic int8: int8 weights, activation ranges found anew at every run. No calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeDynamic(Pass):
    """A rival of static int8: good for matrix products, often slow for convolutions."""

    name: ClassVar[str] = "quantize_dynamic"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.DYNAMIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import dynamic

        del context
        return Applied(payload=dynamic.quantize(candidate.payload))
