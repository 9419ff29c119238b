"""Which option each layer gets: the least harm within every budget, found exactly.

Harm adds up over layers (noise power of the outputs, each layer's alone), and so do bytes and
milliseconds. That is a multiple-choice knapsack,

    min Σ harm[l, k]·x[l, k]   with Σ_k x[l, k] = 1, x in {0, 1}, Σ cost_j[l, k]·x[l, k] ≤ limit_j

which HiGHS (Huangfu and Hall 2018, in scipy) solves to the optimum by branch and bound, in
milliseconds for nets of this size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.errors import FitError

_SCALE = 1e3  # of the objective at its optimum: the solver's absolute gap is 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to do a layer: what it harms, and what it costs in the unit of each budget."""

    harm: float
    costs: tuple[float, ...]


def allocate(layers: Sequence[Sequence[Option]], limits: Sequence[float]) -> tuple[int, ...]:
    """Index of the option of each layer, with the least sum of harms.

    Args:
        layers: the options of each layer; costs are as many as there are limits.
        limits: upper bounds on the sums of costs; infinity for none.

    Raises:
        FitError: nothing fits (the message says what the cheapest choice costs), a number is not
            finite or negative, or scipy is not installed.
    """
    _refuse_odd(layers, limits)
    if not layers:
        return ()
    known = _solve(layers, limits, bound=math.inf)
    best = sum(options[k].harm for options, k in zip(layers, known, strict=True))
    if best == 0.0:
        return known
    # Once more with the objective scaled to its optimum, so that the solver's gap means nothing.
    # An option that alone harms more than a choice that is known cannot be part of a better one.
    return _solve(layers, limits, bound=best)


def _refuse_odd(layers: Sequence[Sequence[Option]], limits: Sequence[float]) -> None:
    for index, options in enumerate(layers):
        if not options:
            raise FitError(f"layer {index} has no option to choose from")
        for option in options:
            numbers = (option.harm, *option.costs)
            if len(option.costs) != len(limits):
                raise FitError(f"layer {index}: {len(option.costs)} costs for {len(limits)} limits")
            if not all(math.isfinite(n) and n >= 0 for n in numbers):
                raise FitError(f"layer {index}: harm and costs are finite and not negative")
    for place, limit in enumerate(limits):
        least = sum(min(o.costs[place] for o in options) for options in layers)
        if math.isnan(limit) or least > limit:
            raise FitError(f"budget {place} is {limit:g}, and the cheapest choice costs {least:g}")


def _solve(
    layers: Sequence[Sequence[Option]], limits: Sequence[float], *, bound: float
) -> tuple[int, ...]:
    optimize = _optimize()
    flat = [(i, k, o) for i, options in enumerate(layers) for k, o in enumerate(options)]
    harms = np.array([o.harm for _, _, o in flat])
    top = harms.max() if math.isinf(bound) else bound
    allowed = np.array([math.isinf(bound) or o.harm <= bound * (1 + 1e-9) for _, _, o in flat])
    rows = np.zeros((len(layers), len(flat)))
    rows[[i for i, _, _ in flat], np.arange(len(flat))] = 1.0
    constraints = [optimize.LinearConstraint(rows, 1.0, 1.0)]
    for place, limit in enumerate(limits):
        if math.isfinite(limit):
            costs = np.array([o.costs[place] for _, _, o in flat])
            unit = max(limit, 1e-30)
            constraints.append(optimize.LinearConstraint(costs / unit, -np.inf, limit / unit))
    found = optimize.milp(
        np.where(allowed, harms, 0.0) * (_SCALE / max(top, 1e-300)),
        constraints=constraints,
        integrality=np.ones(len(flat)),
        bounds=optimize.Bounds(0.0, allowed.astype(float)),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise FitError(f"no choice of options keeps all budgets together: {found.message}")
    chosen = [(i, k) for (i, k, _), x in zip(flat, found.x, strict=True) if x > 0.5]
    return tuple(k for _, k in sorted(chosen))


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError as error:
        raise FitError(
            "mixed precision needs scipy for its solver: install fitment[controller]"
        ) from error
    return optimize
