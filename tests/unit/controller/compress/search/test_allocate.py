"""The allocation is the best there is: held against every possible choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from controller.compress.search.allocate import Option, allocate
from controller.errors import FitError


def instance(seed: int, budgets: int) -> tuple[list[list[Option]], list[float]]:
    random = np.random.default_rng(seed)
    layers = []
    for _ in range(int(random.integers(1, 7))):
        count = int(random.integers(1, 6))
        harms = 10.0 ** random.uniform(-7, 1, count)
        costs = random.uniform(1.0, 5_000.0, (count, budgets))
        layers.append(
            [Option(harm=float(h), costs=tuple(c)) for h, c in zip(harms, costs, strict=True)]
        )
    least = np.array([[min(o.costs[j] for o in each) for j in range(budgets)] for each in layers])
    most = np.array([[max(o.costs[j] for o in each) for j in range(budgets)] for each in layers])
    share = random.uniform(0.3, 0.9, budgets)
    return layers, list(least.sum(axis=0) * (1 - share) + most.sum(axis=0) * share)


def best_of_all(layers: list[list[Option]], limits: list[float]) -> float:
    harms = [
        sum(o.harm for o in choice)
        for choice in itertools.product(*layers)
        if all(sum(o.costs[j] for o in choice) <= limit for j, limit in enumerate(limits))
    ]
    return min(harms, default=math.inf)


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_no_choice_within_the_budgets_is_better(seed: int, budgets: int) -> None:
    layers, limits = instance(seed, budgets)
    best = best_of_all(layers, limits)
    if math.isinf(best):
        with pytest.raises(FitError, match="all budgets together"):
            allocate(layers, limits)
        return
    chosen = [each[k] for each, k in zip(layers, allocate(layers, limits), strict=True)]
    assert sum(o.harm for o in chosen) == pytest.approx(best, rel=1e-9)
    for j, limit in enumerate(limits):
        assert sum(o.costs[j] for o in chosen) <= limit * (1 + 1e-6)


def test_without_a_limit_every_layer_gets_its_least_harm() -> None:
    layers, _ = instance(3, 1)
    chosen = allocate(layers, [math.inf])
    assert [each[k].harm for each, k in zip(layers, chosen, strict=True)] == [
        min(o.harm for o in each) for each in layers
    ]
    assert allocate([], [1.0]) == ()


def test_a_large_net_is_solved_and_stays_within_its_budget() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(100, 100_000, 150)
    layers = [
        [Option(harm=float(s) * 4.0**-b, costs=(float(s) * b / 8,)) for b in (2, 3, 4, 8, 32)]
        for s in sizes
    ]
    limit = float(sizes.sum()) * 3.0 / 8
    chosen = allocate(layers, [limit])
    harm = sum(each[k].harm for each, k in zip(layers, chosen, strict=True))
    assert sum(each[k].costs[0] for each, k in zip(layers, chosen, strict=True)) <= limit
    assert harm < sum(each[1].harm for each in layers) * (1 + 1e-9)  # three bits everywhere


@pytest.mark.parametrize(
    ("layers", "limits", "says"),
    [
        ([[Option(harm=1.0, costs=(5.0,))]], [4.0], "cheapest choice costs 5"),
        ([[]], [4.0], "no option"),
        ([[Option(harm=math.nan, costs=(1.0,))]], [4.0], "finite"),
        ([[Option(harm=1.0, costs=(1.0, 2.0))]], [4.0], "2 costs for 1 limits"),
    ],
)
def test_what_cannot_be_solved_is_refused(
    layers: list[list[Option]], limits: list[float], says: str
) -> None:
    with pytest.raises(FitError, match=says):
        allocate(layers, limits)
