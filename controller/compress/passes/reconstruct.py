"""Few-bit weights in int8 files: each layer's outputs are kept by the way its weights are rounded.

GPTQ's compensated rounding, AdaRound's learned one, or the second from where the first ended; see
`controller.compress.quantize.reconstruct` and `adaround` for methods and sources. Needs inputs and
no labels. Runtimes run the file as they run any int8 file; what shrinks is its transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruct(Pass):
    """Round weights to ``bits`` bits; the first and the last layer keep eight."""

    name: ClassVar[str] = "reconstruct"
    version: ClassVar[int] = 2  # zeros stay zeros
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    requires: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})

    bits: int = 4
    rounding: str = "gptq"  # or "adaround", "both", "nearest"

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import reconstruct

        made = reconstruct.reconstruct(
            candidate.fp32,
            candidate.payload,
            context.calibration,
            bits=self.bits,
            rounding=self.rounding,
            whole=reconstruct.edges(candidate.payload),
        )
        worst = min(made.sqnr_db.values(), default=float("inf"))
        return Applied(
            payload=made.model, numbers={"layers": len(made.sqnr_db), "worst_layer_sqnr_db": worst}
        )
