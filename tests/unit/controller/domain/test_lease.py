"""The lease: in no order of events do two controllers act at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from controller.domain import lease as rules
from controller.domain.lease import MARGIN, Lease

LENGTH_S = 10.0
RUNS = 300


def held(number: int = 1, **changes: object) -> Lease:
    facts: dict[str, object] = {"holder": "a:1", "host": "a", "length_s": LENGTH_S, **changes}
    return Lease(number=number, **facts)  # type: ignore[arg-type]


def test_a_holder_stops_before_one_who_waits_begins() -> None:
    lease = held()
    assert rules.may_act(lease, 0.0, LENGTH_S * (1 - MARGIN) - 0.1)
    assert not rules.may_act(lease, 0.0, LENGTH_S * (1 - MARGIN))
    watch = rules.watched(None, lease, 0.0)
    assert not rules.is_free(watch, LENGTH_S - 0.1)
    assert rules.is_free(watch, LENGTH_S)


def test_a_sign_of_life_begins_the_wait_anew() -> None:
    watch = rules.watched(None, held(), 0.0)
    assert rules.watched(watch, held(), 9.0) == watch
    again = rules.watched(watch, rules.renewed(held(), locked=False), 9.0)
    assert again.since == 9.0
    assert not rules.is_free(again, 18.9)


def test_what_was_given_back_is_free_at_once() -> None:
    back = rules.given_back(held())
    assert rules.is_free(rules.watched(None, back, 0.0), 0.0)
    assert rules.is_abandoned(back, host="b", has_lock=False)
    assert rules.taken(back, held()).released is False


@pytest.mark.parametrize(
    ("host", "has_lock", "locked", "gone"),
    [
        ("a", True, True, True),  # it held the lock that we have: it ended
        ("a", True, False, False),  # it acts without the lock, after a process that was stopped
        ("a", False, True, False),
        ("b", True, True, False),  # a lock says nothing of another machine
    ],
)
def test_who_is_known_to_have_ended(host: str, *, has_lock: bool, locked: bool, gone: bool) -> None:
    assert rules.is_abandoned(held(locked=locked), host=host, has_lock=has_lock) == gone


def test_numbers_only_rise() -> None:
    first = rules.taken(None, held(0))
    assert (first.number, first.beat) == (1, 0)
    assert rules.taken(rules.renewed(first, locked=True), held(0)).number == 2


@dataclass
class Row:
    """The database: one value, compared and replaced at once."""

    value: Lease | None = None


@dataclass
class Process:
    """A controller with a clock that began somewhere and runs a little fast or slow."""

    name: str
    began: float
    speed: float
    row: Row
    number: int = 0
    lease: Lease | None = None
    written_at: float = 0.0
    watch: rules.Watch | None = None
    stopped_until: float = 0.0
    begun: tuple[float, Lease | None] | None = None  # a renewal or a take that is on its way
    numbers: list[int] = field(default_factory=list)

    def clock(self, now: float) -> float:
        return self.began + now * self.speed

    def acts(self, now: float) -> bool:
        """By its own belief: what it would do is done now, unless it is stopped."""
        return self.lease is not None and rules.may_act(
            self.lease, self.written_at, self.clock(now)
        )

    def turn(self, now: float) -> None:
        """Look, and write later: it may be stopped in between, for however long."""
        if self.begun is not None:
            self._write(*self.begun)
            self.begun = None
            return
        mine, seen = self.clock(now), self.row.value
        if self.lease is not None:
            if rules.is_due(self.lease, self.written_at, mine):
                self.begun = (mine, self.lease)
            return
        self.watch = rules.watched(self.watch, seen, mine) if seen else None
        if self.watch is None or rules.is_free(self.watch, mine):
            self.begun = (mine, seen)

    def _write(self, at: float, before: Lease | None) -> None:
        if self.row.value != before:
            self.lease = self.watch = None  # it lost; as a new process it waits again
            return
        wanted = held(0, holder=self.name, host=self.name)
        renewing = self.lease is not None and before is not None
        after = rules.renewed(before, locked=False) if renewing and before else rules.taken(
            before, wanted
        )  # fmt: skip
        self.row.value, self.lease, self.written_at = after, after, at
        self.numbers.append(after.number)


@pytest.mark.parametrize("seed", range(RUNS))
def test_two_never_act_at_once_whoever_is_stopped_for_however_long(seed: int) -> None:
    dice, row = random.Random(seed), Row()
    fastest = 1 + MARGIN / 4  # of clocks; between two of them it is twice that
    everybody = [
        Process(name, dice.uniform(-1e6, 1e6), dice.uniform(1 / fastest, fastest), row)
        for name in "abc"
    ]
    now, holders = 0.0, set()
    while now < 40 * LENGTH_S:
        now += dice.uniform(0.01, 0.5)
        for one in everybody:
            if now >= one.stopped_until:
                one.turn(now)
                if dice.random() < 0.02:
                    one.stopped_until = now + dice.uniform(0.0, 4 * LENGTH_S)
        acting = [one.name for one in everybody if one.acts(now)]
        assert len(acting) <= 1, (seed, now, acting)
        holders.update(acting)
    numbers = [number for one in everybody for number in one.numbers]
    assert len(holders) > 1, "nobody took over: the run says nothing"
    assert max(numbers) == len(set(numbers))
    assert all(one.numbers == sorted(one.numbers) for one in everybody)
