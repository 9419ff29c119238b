"""Zeros among the weights of an ONNX model: a smaller transfer, *size only*.

No runtime that Fitment ships to executes zeros faster; the file is as large as before, and the
entropy coder of the transport finds the zeros. Methods and sources: one file each in
`controller.compress.prune.sparse`. No labels are needed, and inputs only where a method says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from controller.compress import evidence
from controller.compress.base import Applied, Candidate, Context, Form, Numbers, Pass, Property
from controller.compress.passes import onnx_tidy
from controller.errors import FitError

SIZE_ONLY = "size only: no runtime executes these zeros faster"
JUDGED = 64  # inputs that the check compares


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsify(Pass):
    """Set ``sparsity`` of the weights to zero.

    ``method``: which go, ``magnitude``, ``lamp``, ``wanda`` or ``sparsegpt``, which also makes up
    for them. ``scope``: ``layer``, the same share in each, or ``global``, one threshold for all,
    with ``floor`` of each layer kept at least (for ``sparsegpt`` LAMP says each layer's share).
    ``pattern``: ``2:4`` and the like instead of a share. ``refit``: solve the remaining weights of
    each layer for its outputs. ``ends``: prune the first and the last layer too. ``depthwise``:
    prune layers whose outputs read one channel each, too: they hold few weights, and zeros there
    ruin networks that bear them elsewhere (Elsen et al. 2019, arXiv:1911.09723, keep them dense).
    """

    name: ClassVar[str] = "sparsify"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.SPARSE})

    sparsity: float = 0.5
    method: str = "sparsegpt"
    scope: str = "layer"
    pattern: str = ""
    floor: float = 0.1
    refit: bool = False
    ends: bool = False
    depthwise: bool = False

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.prune.sparse import apply as sparse

        plan = sparse.Plan(**{f.name: getattr(self, f.name) for f in fields(self)})
        inputs = context.calibration if plan.needs_inputs else None
        made = sparse.sparsify(candidate.payload, inputs, plan)
        shares = list(made.zeros.values())
        emptiest = max(made.zeros, key=lambda name: made.zeros[name])
        most = f"most zeros: '{emptiest}', {made.zeros[emptiest]:.1%} of its weights"
        return Applied(
            payload=made.model,
            numbers={
                "layers": len(shares),
                "least_zeros": min(shares),
                "most_zeros": max(shares),
                "trapped_layers": len(made.trapped),
            },
            notes=(SIZE_ONLY, most, *(t.text for t in made.trapped), *made.left_alone),
        )

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        inputs = context.calibration[:JUDGED]
        expected = onnx_tidy.answer(before.payload, inputs)
        found = onnx_tidy.answer(after.payload, inputs)
        if expected.shape != found.shape or not np.isfinite(found).all():
            raise FitError(
                f"the pruned model answers with shape {found.shape} instead of {expected.shape}, "
                "or not with finite numbers"
            )
        quality = evidence.sqnr_db(expected, found)
        return {"sqnr_db": float("inf") if quality is None else quality}
