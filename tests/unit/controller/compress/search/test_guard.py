"""The guard's decisions, on drops that are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from controller.compress.search.guard import Guarded, guard
from controller.errors import FitError

LAYERS = ("a", "b", "c", "d")
ALONE = tuple(frozenset({n}) for n in LAYERS)
PAIRS = (*ALONE, frozenset("ab"), frozenset("bc"), frozenset("cd"))


class Arithmetic:
    """A judge whose drop is a formula; noise is what the formula says of the worst inputs."""

    def __init__(
        self,
        drop: Callable[[Mapping[str, float]], float],
        noise: Callable[[Mapping[str, float]], float] | None = None,
    ) -> None:
        self._drop, self._noise = drop, noise or drop
        self.drops: list[dict[str, float]] = []

    def drop(self, widths: Mapping[str, float]) -> float:
        self.drops.append(dict(widths))
        return self._drop(widths)

    def worst(self, widths: Mapping[str, float]) -> Any:
        return dict(widths)

    def noise(self, widths: Mapping[str, float], among: Any) -> float:
        assert among is not None
        return self._noise(widths)

    def cost(self, widths: Mapping[str, float]) -> float:
        return float(sum(widths.values()))


def at(bits: int) -> dict[str, float]:
    return dict.fromkeys(LAYERS, float(bits))


def run(judge: Arithmetic, groups: Any = ALONE, bits: int = 8, limit: float = 0.01) -> Guarded:
    return guard(at(bits), groups, judge, limit=limit)


def test_within_the_limit_nothing_moves() -> None:
    judge = Arithmetic(lambda _: 0.01)
    found = run(judge)
    assert found.met
    assert found.widened == {}
    assert found.judged == 1


def test_the_ruined_layer_is_widened_and_only_that() -> None:
    found = run(Arithmetic(lambda w: 0.001 if w["c"] == 32 else 0.5))
    assert found.met
    assert found.widened == {"c": 32}
    assert (found.drop_before, found.drop) == (0.5, 0.001)


def test_few_bits_go_to_eight_where_float_does_no_better() -> None:
    found = run(Arithmetic(lambda w: 0.001 if w["b"] >= 8 else 0.3), bits=3)
    assert found.met
    assert found.widened == {"b": 8}


def test_layers_that_only_help_together_are_found() -> None:
    both = Arithmetic(lambda w: 0.0 if w["b"] == w["c"] == 32 else 0.4)
    found = run(both, groups=PAIRS)
    assert found.met
    assert found.widened == {"b": 32, "c": 32}
    assert found.given_back == 0
    # Without knowing the pair it takes more steps, and giving back leaves the same two.
    blind = run(both, groups=ALONE)
    assert blind.widened == {"b": 32, "c": 32}
    assert blind.judged > found.judged


def test_a_step_that_worsens_is_undone_and_the_rest_still_tried() -> None:
    def drop(w: Mapping[str, float]) -> float:
        return 0.2 + 0.1 * (w["a"] == 32) - 0.2 * (w["d"] == 32)

    def misleading(w: Mapping[str, float]) -> float:
        return 1.0 - 0.9 * (w["a"] == 32) - 0.5 * (w["d"] == 32)

    found = run(Arithmetic(drop, misleading))
    assert found.met
    assert found.widened == {"d": 32}
    assert found.undone == 1


def test_what_was_not_needed_is_given_back() -> None:
    def drop(w: Mapping[str, float]) -> float:
        return 0.5 - 0.05 * (w["a"] == 32) - 0.5 * (w["d"] == 32)

    def misleading(w: Mapping[str, float]) -> float:
        return 1.0 - 0.9 * (w["a"] == 32) - 0.5 * (w["d"] == 32)

    found = run(Arithmetic(drop, misleading))
    assert found.met
    assert found.widened == {"d": 32}
    assert found.given_back == 1


def test_an_impossible_limit_ends_with_the_best_and_says_so() -> None:
    judge = Arithmetic(lambda w: 0.3 if w["a"] == 32 else 0.4)
    found = run(judge)
    assert not found.met
    assert found.drop == 0.3
    assert found.widened == {"a": 32}  # the others did not help and were given back


def test_after_two_steps_that_worsen_the_sets_are_ranked_anew() -> None:
    rankings: list[dict[str, float]] = []

    class Counting(Arithmetic):
        def worst(self, widths: Mapping[str, float]) -> Any:
            rankings.append(dict(widths))
            return super().worst(widths)

    def drop(w: Mapping[str, float]) -> float:
        helped = 0.2 * (w["a"] == 32) + 0.3 * (w["a"] == 32 and w["d"] == 32)
        return 0.5 - helped + 0.1 * (w["b"] == 32) + 0.1 * (w["c"] == 32)

    order = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    found = run(
        Counting(drop, lambda w: 1.0 - sum(v for n, v in order.items() if w[n] == 32) + 1e-9)
    )
    assert found.met
    assert found.widened == {"a": 32, "d": 32}
    assert found.undone >= 2
    assert rankings[0] == at(8)
    assert rankings[1] == {**at(8), "a": 32}


def test_infinite_noise_ranks_last_and_nan_is_refused() -> None:
    def noise(w: Mapping[str, float]) -> float:
        return math.inf if w["a"] == 32 else 0.5 - 0.1 * (w["b"] == 32)

    found = run(Arithmetic(lambda w: 0.0 if w["b"] == 32 else 1.0, noise))
    assert found.widened == {"b": 32}
    with pytest.raises(FitError, match="NaN"):
        run(Arithmetic(lambda _: math.nan))
