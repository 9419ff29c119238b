"""Which candidates a device confirms by timing them."""

from __future__ import annotations

from collections.abc import Sequence

from controller.domain import choice, ranking
from controller.domain.fleet import Budget, Variant


def candidates(
    variants: Sequence[Variant], budget: Budget, *, top: int = ranking.TOP, also: str = ""
) -> tuple[str, ...]:
    """Digests of the predicted best few that keep to the budget, and of fp32 to compare with.

    ``also`` is what runs: what is said of the others is worth little without it.

    When none keeps to it by prediction, the predicted fastest are timed: a prediction is no
    reason to give up.
    """
    ranked = choice.choose(variants, budget, {}).ranked
    if not ranked:
        ranked = tuple(v.bundle.variant for v in ranking.by_prediction(variants))
    fp32 = [v.bundle.variant for v in variants if v.name == "fp32"]
    known = [also] if any(v.bundle.variant == also for v in variants) else []
    return tuple(dict.fromkeys([*ranked[:top], *fp32, *known]))
