"""Dynamic int8: int8 weights, activation ranges found anew at every run. No calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property
from controller.compress.graph.model import HEAVY
from controller.compress.graph.subgraphs import every_node, listed
from controller.errors import FitError


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
        made = dynamic.quantize(candidate.payload)
        integer = [n for n in every_node(made.graph) if HEAVY.get(n.op_type, False)]
        if not integer:
            raise FitError(
                "nothing was quantized: no convolution or product with constant weights stands "
                f"outside of a subgraph; there is {', '.join(listed(made.graph.node))}"
            )
        return Applied(payload=made, numbers={"integer_nodes": len(integer)})
