"""A rollout's devices by cohort, kept device by device: who takes a place, who waits for one.

The sums that `rollout.admissions` makes of every record, so that a look costs as much as there
are cohorts and as many devices as it admits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.domain.fleet import Rollout
from controller.domain.quotas import quota, room

Turn = tuple[int, str]
"""A device's place in admission order, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How one device of the selection stands."""

    cohort: str  # key
    turn: Turn
    taken: bool = False  # its deployment takes a place
    ended_at: float | None = None  # of such a deployment, when it ended
    reached: bool = False  # it has had its turn
    waits: bool  # it is there, and may be given an order
    again: bool = False  # it has a place already, and another turn


@dataclass(slots=True)
class _Cohort:
    members: list[Turn] = field(default_factory=list)
    fresh: list[Turn] = field(default_factory=list)
    again: list[Turn] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    taken: int = 0


class Places:
    """All cohorts of one rollout."""

    def __init__(self) -> None:
        self.away = 0  # devices of the selection that had no turn yet
        self.members: dict[str, int] = {}  # devices of each cohort
        self._cohorts: dict[str, _Cohort] = {}
        self._order: list[_Cohort] | None = None

    def put(self, place: Place) -> None:
        """Take in how one device stands."""
        cohort = self._cohorts.setdefault(place.cohort, _Cohort())
        self._count(cohort, place, 1)
        for listed in _lists(cohort, place):
            insort(listed, place.turn)
        if place.ended_at is not None:
            insort(cohort.ends, place.ended_at)
        if len(cohort.members) == 1 or cohort.members[0] == place.turn:
            self._order = None

    def drop(self, place: Place) -> None:
        """Take it back."""
        cohort = self._cohorts[place.cohort]
        if cohort.members[0] == place.turn:
            self._order = None
        self._count(cohort, place, -1)
        for listed in _lists(cohort, place):
            del listed[bisect_left(listed, place.turn)]
        if place.ended_at is not None:
            del cohort.ends[bisect_left(cohort.ends, place.ended_at)]
        if not cohort.members:
            del self._cohorts[place.cohort], self.members[place.cohort]

    def _count(self, cohort: _Cohort, place: Place, by: int) -> None:
        cohort.taken += by * place.taken
        self.away += by * (not place.reached)
        self.members[place.cohort] = self.members.get(place.cohort, 0) + by

    def admitted(self, rollout: Rollout, now: float) -> Iterator[str]:
        """Names of those that may begin, as `rollout.admissions` has them."""
        order = self._ordered()
        begun = sum(cohort.taken > 0 for cohort in order)
        openings = quota(len(order), rollout.waves[rollout.wave]) - begun
        for cohort in order:
            if not cohort.fresh and not cohort.again:
                continue
            chosen = _chosen(cohort, rollout, now)
            if chosen and not cohort.taken:
                openings -= 1
                if openings < 0:
                    continue
            yield from (name for _, name in chosen)

    def waiting(self) -> list[str]:
        """Names of all that may be given an order and had no turn, in admission order."""
        return [
            name for _, name in sorted(t for c in self._ordered() for t in (*c.fresh, *c.again))
        ]

    def _ordered(self) -> list[_Cohort]:
        if self._order is None:
            self._order = sorted(self._cohorts.values(), key=lambda cohort: cohort.members[0])
        return self._order


def _lists(cohort: _Cohort, place: Place) -> Iterator[list[Turn]]:
    yield cohort.members
    if place.waits and not place.reached:
        yield cohort.again if place.again else cohort.fresh


def _chosen(cohort: _Cohort, rollout: Rollout, now: float) -> list[Turn]:
    ended = len(cohort.ends)
    soaked = ended > 0 and now - cohort.ends[0] >= rollout.soak_s
    reach = rollout.wave if soaked else 0
    free = quota(len(cohort.members), rollout.waves[reach]) - cohort.taken
    places = max(0, room(ended, cohort.taken - ended, rollout.gate))
    return (cohort.again[:places] + cohort.fresh[: max(0, min(free, places))])[:places]
