"""Rounds of pruning: the cubic schedule, and a recipe that shares one recovery among them."""

from __future__ import annotations

import pytest

from controller.compress.passes.distil import Distil
from controller.compress.passes.prune_structured import PruneRound
from controller.compress.prune import schedule
from controller.compress.recipe import Recipe
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import Chain, candidate, context, trained


def test_cubic_by_hand() -> None:
    """0.8 · (1 − (3/4)³), (1 − (1/2)³), (1 − (1/4)³), 1."""
    found = schedule.cubic(0.8, 4)
    assert found == pytest.approx([0.8 * 37 / 64, 0.8 * 56 / 64, 0.8 * 63 / 64, 0.8])
    assert schedule.cubic(0.5, 1) == (0.5,)


def test_rounds_train_on_as_many_inputs_as_one_cut_would() -> None:
    recovery = Distil(epochs=2, samples=1000, batch=10)
    steps = schedule.structured_rounds(0.65, 3, recovery=recovery, between=0.2)
    cuts, trainings = steps[::2], steps[1::2]
    assert [s.ratio for s in cuts if isinstance(s, PruneRound)] == pytest.approx(
        schedule.cubic(0.65, 3), abs=1e-6
    )
    images = [s.epochs * s.samples for s in trainings if isinstance(s, Distil)]
    assert images == [400, 400, 1200]
    assert sum(images) == recovery.epochs * recovery.samples


def test_a_recipe_of_rounds_ends_at_the_ratio() -> None:
    module = trained(Chain())
    recovery = Distil(epochs=1, samples=64, batch=16)
    steps = schedule.structured_rounds(0.5, 3, recovery=recovery, multiple_of=4, criterion="thinet")
    found = Recipe(steps=steps).run(candidate(module), context(module))
    assert (found.payload.a.out_channels, found.payload.b.out_channels) == (8, 12)
    removed = [e.numbers["channels_removed"] for e in found.evidence[::2]]
    assert removed == [12, 0, 8]  # rounding leaves the second round nothing to do


@pytest.mark.parametrize(("ratio", "rounds"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_what_is_no_schedule(ratio: float, rounds: int) -> None:
    with pytest.raises(FitError, match="a final ratio between 0 and 1"):
        schedule.cubic(ratio, rounds)


def test_more_rounds_than_there_is_recovery() -> None:
    with pytest.raises(FitError, match="8 rounds cannot each take 15% of the recovery"):
        schedule.structured_rounds(0.5, 8, recovery=Distil())
