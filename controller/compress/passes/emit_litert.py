"""Make a .tflite file of an fp32 or Q/DQ ONNX model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitLitert(Pass):
    """The last step of every LiteRT recipe."""

    name: ClassVar[str] = "emit_litert"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.TFLITE
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.DYNAMIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.passes import onnx_tidy
        from controller.compress.toolchains.litert import convert

        # A .tflite file has one size: what the file leaves free is as the workload's inputs are.
        content = convert(onnx_tidy.sized(candidate.payload, context.calibration))
        return Applied(payload=content, numbers={"bytes": len(content)})
