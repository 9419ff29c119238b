"""Garbage that refers to itself goes by the clock, and what was there first is not looked at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from agent.tidy import INTERVAL_S, Tidy


class Knot:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def by_hand() -> Iterator[None]:
    """Nobody else collects meanwhile."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def knot() -> weakref.ref[Knot]:
    return weakref.ref(Knot())


def test_it_goes_when_it_is_time() -> None:
    tidy = Tidy()
    tidy.tick(0.0)
    lost = knot()
    tidy.tick(INTERVAL_S - 1.0)
    assert lost() is not None
    tidy.tick(INTERVAL_S)
    assert lost() is None


def test_what_was_there_at_first_is_left_alone() -> None:
    before = gc.get_freeze_count()
    tidy = Tidy()
    tidy.tick(0.0)
    frozen = gc.get_freeze_count()
    assert frozen > before
    knot()
    tidy.tick(INTERVAL_S)
    assert gc.get_freeze_count() <= frozen
