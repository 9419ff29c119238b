"""Weight clustering: each layer's weights become the nearest of ``2^bits`` centroids (k-means).

Size only: no runtime runs it faster. See `controller.compress.quantize.codebook` for the formula
and its source (Han et al., 2016). It needs no data; the first and the last layer stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(Pass):
    """Replace weights by a palette, in the float model."""

    name: ClassVar[str] = "cluster"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})

    bits: int = 4

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import codebook, reconstruct

        del context
        made = codebook.encode(
            candidate.payload,
            lambda weights: codebook.palette(weights, self.bits),
            whole=reconstruct.edges(candidate.payload),
        )
        return Applied(payload=made.model, numbers=codebook.numbers_of(made))
