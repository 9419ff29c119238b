"""Static int8: weights by channel, activations by ranges seen on the calibration set (Q/DQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.graph import model as graph_model
from controller.compress.graph.normalize import normalized
from controller.compress.graph.subgraphs import listed
from controller.errors import FitError


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeStatic(Pass):
    """Insert Q/DQ pairs. ``scheme``: activations, then weights: u8s8, s8s8, u8u8 or s16s8.

    ``centred`` and ``power_of_two`` are for targets whose arithmetic asks for it; see
    `controller.compress.quantize.numbers.Rules`.
    """

    name: ClassVar[str] = "quantize_static"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})

    scheme: str = "u8s8"
    calibrator: str = "minmax"
    per_channel: bool = True
    centred: bool = False
    power_of_two: bool = False

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.quantize import placement, ranges, static
        from controller.compress.quantize.numbers import Rules

        rules = Rules(
            per_channel=self.per_channel, centred=self.centred, power_of_two=self.power_of_two
        )
        plain = normalized(candidate.payload)
        if not placement.weighted(plain):
            there = ", ".join(listed(plain.graph.node))
            raise FitError(
                "nothing can be quantized: no convolution, product or embedding with constant "
                f"weights stands outside of a subgraph; there is {there}"
            )
        found = ranges.collect(candidate.payload, context.calibration, calibrator=self.calibrator)
        made = static.quantize_listed(candidate.payload, found, scheme=self.scheme, rules=rules)
        left = [n for n in plain.graph.node if f"{n.op_type} '{n.name}'" in made.left_float]
        return Applied(
            payload=made.model,
            numbers={"ranges": len(found), "left_float": len(made.left_float)},
            notes=tuple(f"left float: {nodes}" for nodes in listed(left)),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        return _same_work(before, after, context)


def _same_work(before: Candidate, after: Applied, context: Context) -> Numbers:
    """Quantizing changes numbers, never the amount of work."""
    asked, found = (graph_model.macs(m.payload, context.calibration) for m in (before, after))
    if asked != found:
        raise FitError(f"the quantized model does {found} multiply-accumulates instead of {asked}")
    return {"macs": found}
