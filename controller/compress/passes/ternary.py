"""Ternary weights, experimental: ``W ← α · {−1, 0, 1}`` for each output channel (TWN).

See `controller.compress.quantize.codebook` for the formula and its source (Li et al., 2016). Size
only, and without training of the rounded network it ruins most networks: see that room's README
for the numbers. It needs no data; the first and the last layer stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary(Pass):
    """Replace weights by three values a channel, in the float model."""

    name: ClassVar[str] = "ternary"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import codebook, reconstruct

        del context
        whole = reconstruct.edges(candidate.payload)
        made = codebook.encode(candidate.payload, codebook.ternary, whole=whole)
        return Applied(payload=made.model, numbers=codebook.numbers_of(made))
