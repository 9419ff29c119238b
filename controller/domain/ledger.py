"""A rollout's records and what they come to, kept so that a decision reads what changed.

`rollout.steps` is what a rollout does next; it reads every record. `Ledger.steps` says the same:
it holds sums of them (`bets`, `places`), of which each device's part is taken back and put in anew
when one of its records changes. Where the words of a decision need every record (a gate fails, a
wave ends), it asks `rollout.steps`. A test holds the two against each other over random histories.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from controller.domain import eligible, gates, rollout
from controller.domain.bets import Bets, Part, part_of
from controller.domain.fleet import Deployment, Device, Gate, Rollout, RolloutState
from controller.domain.places import Place, Places, Turn
from controller.domain.plan import SETTLE_S, own
from controller.domain.rollout import Admit, Step, TimeOut, View
from fitment.core.deployment import Outcome


@dataclass(frozen=True, slots=True)
class _Counted:
    """What one device was counted as."""

    place: Place | None = None  # None: it is not of the selection
    part: Part | None = None  # None: it has no deployment
    open: tuple[float, str] | None = None  # since when, and the deployment
    ended_at: float | None = None  # of one that says something


_NOTHING = _Counted()


def follows(made: Rollout) -> bool:
    """Whether a ledger knows all that decides about a rollout.

    Labels and what a control group says are no deployment's: who listens to them reads all.
    """
    gate = made.gate
    return not (made.control_below or gate.field_drop_max is not None or gate.must_pass)


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Of one rollout; `look` is to be called for each device of which a record changed."""

    rollout: Rollout  # its settings; wave and state are read at each decision
    targets: Mapping[str, Device]
    deployments: Mapping[str, Deployment]  # device -> its newest
    earlier: Mapping[str, tuple[Deployment, ...]]
    _bets: Bets = field(init=False)
    _places: Places = field(init=False, default_factory=Places)
    _counted: dict[str, _Counted] = field(init=False, default_factory=dict)
    _changed: dict[str, None] = field(init=False, default_factory=dict)  # not counted anew yet
    _turns: dict[str, Turn] = field(init=False, default_factory=dict)
    _last_turn: int = field(init=False, default=0)
    _open: dict[str, tuple[float, str]] = field(init=False, default_factory=dict)
    _oldest: list[tuple[float, str, str]] = field(init=False, default_factory=list)  # a heap
    _ends: list[float] = field(init=False, default_factory=list)
    _settles: list[tuple[float, str]] = field(init=False, default_factory=list)  # a heap
    _moments: list[float] = field(init=False, default_factory=list)  # a heap
    _accepted: frozenset[str] = field(init=False)
    _retried: frozenset[str] = field(init=False)
    _pending: tuple[tuple[str, ...], frozenset[str]] = field(init=False, default=((), frozenset()))

    def __post_init__(self) -> None:
        self._bets = Bets(self.rollout)
        self._accepted = frozenset(self.rollout.acknowledged)
        self._retried = frozenset(self.rollout.retried)
        for name in (*self.targets, *(n for n in self.deployments if n not in self.targets)):
            self.look(name)

    def look(self, name: str) -> None:
        """A device's records are others now; it is counted anew at the next decision."""
        self._changed[name] = None
        if name not in self.targets:
            self._turns.pop(name, None)
        elif name not in self._turns:
            self._last_turn += 1
            self._turns[name] = (self._last_turn, name)

    def steps(self, made: Rollout, now: float) -> tuple[Step, ...]:
        """What `rollout.steps` says of the same records.

        Args:
            made: the rollout as it is now; settings other than on its way (`same_settings`) as
                they were.
            now: seconds, UTC.
        """
        self._count_anew(now)
        silent = self._silent(made, now)
        if made.state is RolloutState.COMPLETED:
            return silent or self._returned(made, now)
        if made.state is not RolloutState.RUNNING:
            return silent
        if not self.targets or self._bets.fails(self._places.members):
            return rollout.steps(self.view(made, now))
        return silent or self._admissions(made, now) or self._advance(made, now)

    def view(self, made: Rollout, now: float) -> View:
        """All of it, as `rollout` reads it."""
        return View(
            rollout=made, targets=tuple(self.targets.values()), deployments=self.deployments,
            earlier=self.earlier, now=now,
        )  # fmt: skip

    def stakes(self) -> tuple[tuple[float, float], ...]:
        """What gates' bets came to at the last decision, and what they halt at."""
        return tuple(self._bets.stakes(self._places.members))

    def next_at(self, made: Rollout, now: float) -> float:
        """The first moment from about now on at which time alone may change a decision."""
        # A deadline holds once it is past, so the moment itself is looked at again.
        while self._moments and self._moments[0] <= now - 1.0:
            heapq.heappop(self._moments)
        moments = [made.windows_end] if made.windows_end > now - 1.0 else []
        settles = [at + SETTLE_S for at, _ in self._settles[:1]]
        return min((*moments, *settles, *self._moments[:1]), default=float("inf"))

    # What each device is counted as

    def _count_anew(self, now: float) -> None:
        while self._settles and now - self._settles[0][0] >= SETTLE_S:
            self._changed[heapq.heappop(self._settles)[1]] = None
        for name in self._changed:
            before, after = self._counted.get(name, _NOTHING), self._as_is(name, now)
            if after != before:
                self._recount(name, before, after)
                self._counted[name] = after
        self._changed.clear()

    def _recount(self, name: str, before: _Counted, after: _Counted) -> None:
        if before.place != after.place:
            if before.place is not None:
                self._places.drop(before.place)
            if after.place is not None:
                self._places.put(after.place)
        if before.part != after.part:
            self._bet(before.part, after.part)
        if before.open != after.open:
            self._under_way(name, after.open)
        if before.ended_at != after.ended_at:
            self._end(before.ended_at, after.ended_at)

    def _end(self, before: float | None, after: float | None) -> None:
        if before is not None:
            del self._ends[bisect_left(self._ends, before)]
        if after is not None:
            insort(self._ends, after)
            made = self.rollout
            for waits_s in {made.soak_s, SETTLE_S, made.control_s or made.soak_s}:
                heapq.heappush(self._moments, after + waits_s)

    def _bet(self, before: Part | None, after: Part | None) -> None:
        if before and after and (before.cohort, before.at) == (after.cohort, after.at):
            self._bets.change(before, after)
            return
        if before is not None:
            self._bets.drop(before)
        if after is not None:
            self._bets.put(after)

    def _under_way(self, name: str, since: tuple[float, str] | None) -> None:
        if since is None:
            self._open.pop(name, None)
            return
        self._open[name] = since
        heapq.heappush(self._oldest, (*since, name))
        heapq.heappush(self._moments, since[0] + self.rollout.deadline_s)

    def _as_is(self, name: str, now: float) -> _Counted:
        device, newest = self.targets.get(name), self.deployments.get(name)
        place = None
        if device is not None:  # another may have had its name, and its turn, before
            its = newest if newest is not None and own(device, (newest,)) else None
            place = self._place(device, its)
        if newest is None:
            return replace(_NOTHING, place=place)
        ended = newest.outcome is not None
        return _Counted(
            place=place, part=self._part(device, newest, now),
            open=None if ended else (newest.created_at, newest.id),
            ended_at=newest.ended_at if ended and not gates.is_void(newest) else None,
        )  # fmt: skip

    def _place(self, device: Device, newest: Deployment | None) -> Place:
        obstacle = self.rollout.windows and not eligible.keeps_to_windows(device)
        free = Place(
            cohort=rollout.key_of(device), turn=self._turns[device.name],
            waits=device.online and not obstacle,
        )  # fmt: skip
        if newest is None:
            return free
        void, again = gates.is_void(newest), newest.id in self._retried
        held_back = newest.held_back and newest.outcome is Outcome.CANCELLED
        return replace(
            free, taken=not void, reached=not again and not held_back, again=again and not void,
            ended_at=None if void or newest.outcome is None else newest.ended_at,
        )  # fmt: skip

    def _part(self, device: Device | None, newest: Deployment, now: float) -> Part:
        tries = (*self.earlier.get(newest.device, ()), newest)
        judged = next((d for d in tries if d.id not in self._accepted), newest)
        if judged.cohort is not None:
            key = judged.cohort.key
        else:
            key = rollout.key_of(device) if device is not None else f"device {newest.device}"
        if judged.outcome is Outcome.COMMITTED and now - judged.ended_at < SETTLE_S:
            heapq.heappush(self._settles, (judged.ended_at, judged.device))
        return part_of(self._bets.checks, judged, device, self._accepted, key=key, now=now)

    # What comes of it

    def _silent(self, made: Rollout, now: float) -> tuple[Step, ...]:
        while self._oldest and self._open.get(self._oldest[0][2]) != self._oldest[0][:2]:
            heapq.heappop(self._oldest)
        limit_s = made.deadline_s
        if not self._oldest or now - self._oldest[0][0] <= limit_s:
            return ()
        reason = f"no end was reported within {limit_s:g} s"
        return tuple(
            TimeOut(deployment=key, reason=reason)
            for since, key in sorted(self._open.values())
            if now - since > limit_s
        )

    def _is_closed(self, made: Rollout, now: float) -> bool:
        return bool(made.windows) and 0 < made.windows_end <= now

    def _returned(self, made: Rollout, now: float) -> tuple[Step, ...]:
        if self._pending[0] is not made.pending:
            self._pending = (made.pending, frozenset(made.pending))
        if not made.pending or self._is_closed(made, now):
            return ()
        return tuple(
            Admit(device=name, wave=made.wave)
            for name in self._places.waiting()
            if name in self._pending[1]
        )

    def _admissions(self, made: Rollout, now: float) -> tuple[Step, ...]:
        if self._is_closed(made, now):
            return ()
        return tuple(
            Admit(device=name, wave=made.wave) for name in self._places.admitted(made, now)
        )

    def _advance(self, made: Rollout, now: float) -> tuple[Step, ...]:
        """A wave's end is judged on every record; until then there is nothing to judge."""
        if self._open:
            return ()
        away = self._places.away > 0
        closed = 0 < made.windows_end <= now
        if not (away and closed):
            if not self._ends and away:
                return ()
            if self._ends and now - self._ends[-1] < made.soak_s:
                return ()
        return rollout.steps(self.view(made, now))


def same_settings(one: Rollout, other: Rollout) -> bool:
    """Whether both are judged alike: a rollout that goes on changes only how far it is."""
    return _settings(one) == _settings(other)


def _settings(made: Rollout) -> tuple[Gate, tuple[object, ...]]:
    return made.gate, (
        made.waves, made.soak_s, made.deadline_s, made.windows, made.control_s, made.retried,
        made.acknowledged, made.control_below,
    )  # fmt: skip
