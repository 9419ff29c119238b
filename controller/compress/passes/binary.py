"""Binary weights, experimental: ``W ← E|W| · sign(W)`` for each output channel (XNOR-Net).

See `controller.compress.quantize.codebook` for the formula and its source (Rastegari et al., 2016).
Size
only, and without training of the rounded network it ruins most networks: see that room's README
for the numbers. It needs no data; the first and the last layer stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(Pass):
    """Replace weights by two values a channel, in the float model."""

    name: ClassVar[str] = "binary"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import codebook, reconstruct

        del context
        whole = reconstruct.edges(candidate.payload)
        made = codebook.encode(candidate.payload, codebook.binary, whole=whole)
        return Applied(payload=made.model, numbers=codebook.numbers_of(made))
