"""Open only in a window, with room for what is to be done, by a clock that can be right."""

from __future__ import annotations

import random

import pytest

from agent.domain.window import LOOK_S, look, moment
from fitment.core.deployment import Span

WINDOWS = (Span(opens_unix=1000, closes_unix=1600), Span(opens_unix=5000, closes_unix=5600))


@pytest.mark.parametrize(
    ("wall", "opens", "says"),
    [
        (999.0, False, "opens at 1970-01-01 00:16 UTC"),
        (1000.0, True, ""),
        (1580.0, True, ""),
        (1581.0, False, "opens at 1970-01-01 01:23 UTC"),  # 20 s are needed
        (1600.0, False, "opens at 1970-01-01 01:23 UTC"),
        (5000.0, True, ""),
        (9e9, False, "last window closed at 1970-01-01 01:33 UTC"),
        (499.0, False, "before the latest trusted time"),
    ],
)
def test_rows(wall: float, opens: bool, says: str) -> None:
    found = look(WINDOWS, wall_unix=wall, floor_unix=500.0, needs_s=20.0)
    assert found.open is opens
    assert says in found.reason
    assert bool(found.problem) is (wall < 500.0)


def test_without_windows_even_a_wrong_clock_may_switch() -> None:
    assert look((), wall_unix=0.0, floor_unix=500.0, needs_s=20.0).open


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_clock_says_it_opens_only_inside(seed: int) -> None:
    chance = random.Random(seed)
    edges = sorted(chance.sample(range(100_000), 2 * chance.randint(1, 5)))
    windows = [
        Span(opens_unix=a, closes_unix=b) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]
    wall, floor, needs = (chance.uniform(-1e5, 2e5) for _ in range(3))
    needs = abs(needs) / 100
    found = look(windows, wall_unix=wall, floor_unix=floor, needs_s=needs)
    inside = any(w.opens_unix <= wall and wall + needs <= w.closes_unix for w in windows)
    assert found.open is (inside and wall >= floor)
    if not found.open:
        assert 0 < found.after_s <= LOOK_S
        assert found.reason
        soon = look(
            windows, wall_unix=wall + 0.999 * found.after_s, floor_unix=floor, needs_s=needs
        )
        assert not soon.open or wall < floor, "it looks again before a window could have opened"


def test_a_moment_that_no_calendar_has_is_shown_all_the_same() -> None:
    assert moment(1e30)
