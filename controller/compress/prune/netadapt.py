"""NetAdapt: widths layer by layer, by what each cut saves and loses (Yang et al. 2018).

arXiv:1804.03230, algorithm 1. Each round lowers the cost by a step that shrinks:

    aim_i = cost_i − R·dⁱ

For every layer by itself the smallest cut that reaches the aim is made and shortly recovered; the
layer that loses least quality for the cost it saves keeps its cut (the paper takes the best
accuracy, its published code this ratio). A long recovery follows at the end, elsewhere.

Here it is the search alone, over whatever has widths, a cost and a quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from controller.errors import FitError

State = TypeVar("State")
Widths = Mapping[int, int]


class Ground(Protocol[State]):
    """What is searched: networks with widths by number of layer group."""

    def widths(self, state: State) -> Widths:
        """Widths that may be cut."""
        ...

    def cost(self, widths: Widths) -> float:
        """Predicted latency, or whatever is to be lowered. Nothing is run for it."""
        ...

    def narrowed(self, state: State, index: int, width: int, number: int) -> State:
        """A copy with one group cut to ``width`` and shortly recovered, in round ``number``."""
        ...

    def quality(self, state: State) -> float:
        """Higher is better; on guard data."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One round: which group was cut, to what, and what came of it."""

    index: int
    width: int
    cost: float
    quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted(Generic[State]):
    """Where the search ended. ``reached`` is false when nothing was left to cut."""

    state: State
    cost_before: float
    cost: float
    steps: tuple[Step, ...]
    reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How the search goes down: first step and decay, in shares of the cost at the start."""

    first: float = 0.15
    decay: float = 0.97
    multiple_of: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.first < 1 or not 0 < self.decay <= 1 or self.multiple_of < 1:
            raise FitError(
                "a first step between 0 and 1, a decay above 0 and at most 1 and a multiple ≥ 1 "
                f"are needed, not {self.first}, {self.decay} and {self.multiple_of}"
            )


def adapt(start: State, ground: Ground[State], *, target: float, pace: Pace) -> Adapted[State]:
    """Narrow ``start`` until its cost is at most ``target``, in the cost's unit."""
    state, quality = start, ground.quality(start)
    before = cost = ground.cost(ground.widths(start))
    step = pace.first * before
    steps: list[Step] = []
    while cost > target:
        aim = max(cost - step, target)
        proposals = _proposals(ground, ground.widths(state), aim, pace.multiple_of)
        tried = []
        for index, (width, price) in proposals.items():
            made = ground.narrowed(state, index, width, len(steps))
            found = ground.quality(made)
            loss = (quality - found) / (cost - price)
            tried.append(
                (loss, price, Step(index=index, width=width, cost=price, quality=found), made)
            )
        if not tried:
            break
        _, cost, taken, state = min(tried, key=lambda entry: entry[:2])
        quality = taken.quality
        steps.append(taken)
        step *= pace.decay
    return Adapted(
        state=state, cost_before=before, cost=cost, steps=tuple(steps), reached=cost <= target
    )


def _proposals(
    ground: Ground[State], widths: Widths, aim: float, multiple_of: int
) -> dict[int, tuple[int, float]]:
    """For each group the widest cut that reaches the aim, with its cost.

    A group that cannot reach it alone offers its deepest cut (the paper leaves it out): with
    coarse multiples, groups that matter would pay for those that are nearly used up.
    """
    now = ground.cost(widths)
    found: dict[int, tuple[int, float]] = {}
    for index, size in widths.items():
        top = (size - 1) // multiple_of * multiple_of
        for width in range(top, 0, -multiple_of):
            price = ground.cost({**widths, index: width})
            if price < now:
                found[index] = (width, price)
            if price <= aim:
                break
    return found
