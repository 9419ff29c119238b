"""Which candidates a device confirms by timing them."""

from __future__ import annotations

from collections.abc import Sequence

from controller.domain import choice
from controller.domain.fleet import Budget, Variant

TOP = 3
"""Candidates that are timed beside plain fp32."""


def candidates(variants: Sequence[Variant], budget: Budget, *, top: int = TOP) -> tuple[str, ...]:
    """Digests of the predicted best few that keep to the budget, and of fp32 to compare with.

    When none keeps to it by prediction, the predicted fastest are timed: a prediction is no
    reason to give up.
    """
    ranked = list(choice.choose(variants, budget, {}).ranked)
    if not ranked:
        by_latency = sorted(
            variants, key=lambda v: v.predicted.value if v.predicted else float("inf")
        )
        ranked = [v.bundle.variant for v in by_latency]
    chosen = ranked[:top]
    chosen += [v.bundle.variant for v in variants if v.name == "fp32"]
    return tuple(dict.fromkeys(chosen))
