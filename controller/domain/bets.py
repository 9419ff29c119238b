"""The gates' evidence kept device by device, so that a look costs what changed since the last.

`gates.judge` reads every deployment of a cohort; here a deployment is read when it changes, and
what a look needs of all of them is held: who was admitted in which order, who said nothing, who
spoke against. Whether any gate fails comes out exactly as `gates.judge` has it in the middle of a
wave; the words and numbers of its reports are the judge's alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controller.domain import gates, observing, sequential
from controller.domain.fleet import Deployment, Device, Rollout
from controller.domain.observing import Check

At = tuple[float, str]
"""A deployment's place: when it was admitted, and the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one device's judged deployment is in its cohort."""

    cohort: str  # key
    at: At
    said: tuple[float | None, ...] | None  # to each gate: 1 against, 0 for; None while it is open


def part_of(
    checks: Sequence[Check], judged: Deployment, device: Device | None,
    accepted: frozenset[str], *, key: str, now: float,
) -> Part:  # fmt: skip
    """Read one deployment as the gates do."""
    said: tuple[float | None, ...] | None = (None,) * len(checks)
    if judged.outcome is None:
        said = None
    elif not observing.is_void(judged) and judged.id not in accepted:
        said = tuple(_against(check, judged, device, now) for check in checks)
    return Part(cohort=key, at=(judged.created_at, judged.device), said=said)


def _against(check: Check, judged: Deployment, device: Device | None, now: float) -> float | None:
    value, _ = observing.value_of(check, judged, device, now=now)
    return None if value is None else float(check.against(value))


@dataclass(slots=True)
class _Said:
    """One gate of one cohort."""

    silent: list[At] = field(default_factory=list)  # ended without a word
    against: list[At] = field(default_factory=list)
    best: list[float] = field(default_factory=list)  # highest bet after each of `against`
    ended: int = 0  # with a word

    def put(self, at: At, value: float | None, by: int) -> None:
        """Count one that ended, or with ``by`` of -1 take it back."""
        if value is not None:
            self.ended += by
        for listed, holds in ((self.silent, value is None), (self.against, bool(value))):
            if holds and by > 0:
                insort(listed, at)
            elif holds:
                del listed[bisect_left(listed, at)]
        if not value and value is not None:
            return  # one that is for it was counted so already while it was open
        del self.best[bisect_left(self.against, at) :]

    def highest(self, order: Sequence[At], allowed: float) -> float:
        """`sequential.highest` over all in their order; only what changed is gone over again."""
        best = self.best[-1] if self.best else 1.0
        for number in range(len(self.best), len(self.against)):
            at = self.against[number]
            seen = bisect_right(order, at) - bisect_right(self.silent, at)
            # Where no more are against than may be, no bet has grown.
            if number + 1 > allowed * seen:
                best = max(best, sequential.e_value(seen, float(number + 1), allowed))
            self.best.append(best)
        return best


@dataclass(slots=True)
class _Cohort:
    said: list[_Said]
    order: list[At] = field(default_factory=list)
    open: int = 0


class Bets:
    """All gates of all cohorts of one rollout."""

    def __init__(self, rollout: Rollout) -> None:
        self.checks = observing.checks(rollout.gate)
        self._rollout = rollout
        self._cohorts: dict[str, _Cohort] = {}

    def put(self, part: Part) -> None:
        """Take in how one device stands."""
        cohort = self._cohorts.get(part.cohort)
        if cohort is None:
            cohort = self._cohorts[part.cohort] = _Cohort([_Said() for _ in self.checks])
        insort(cohort.order, part.at)
        for said in cohort.said:
            del said.best[bisect_left(said.against, part.at) :]
        self._count(cohort, part, 1)

    def change(self, before: Part, after: Part) -> None:
        """The same device says something else now; nothing else of its place may differ."""
        cohort = self._cohorts[before.cohort]
        self._count(cohort, before, -1)
        self._count(cohort, after, 1)

    def drop(self, part: Part) -> None:
        """Take it back."""
        cohort = self._cohorts[part.cohort]
        self._count(cohort, part, -1)
        del cohort.order[bisect_left(cohort.order, part.at)]
        for said in cohort.said:
            del said.best[bisect_left(said.against, part.at) :]
        if not cohort.order:
            del self._cohorts[part.cohort]

    def _count(self, cohort: _Cohort, part: Part, by: int) -> None:
        if part.said is None:
            cohort.open += by
            return
        for said, value in zip(cohort.said, part.said, strict=True):
            said.put(part.at, value, by)

    def fails(self, members: Mapping[str, int]) -> bool:
        """Whether a gate fails now, in the middle of a wave.

        Args:
            members: devices that each cohort has now, admitted or not.
        """
        whole = 0.0
        for value, needed in self.stakes(members):
            if value >= needed:
                return True
            whole += value / needed
        return whole >= 1

    def stakes(self, members: Mapping[str, int]) -> Iterator[tuple[float, float]]:
        """Bets and what they must come to, in the order in which the judge adds them up.

        A cohort that is too small to bet on gives a pair of ones when it fails, and else nothing.
        """
        gate, count = self._rollout.gate, len(self.checks)
        by_first = sorted(self._cohorts.items(), key=lambda pair: pair[1].order[0])
        for place, (key, cohort) in enumerate(by_first):
            needed = 1 / (gates.part(place, count) * gate.false_halt_rate)
            few = max(members.get(key, 0), len(cohort.order)) < gates.STATISTICAL
            for check, said in zip(self.checks, cohort.said, strict=True):
                early = said.ended < gate.min_sample
                against = len(said.against)
                if not said.ended:
                    continue
                if few:
                    seen = said.ended + cohort.open
                    if gates.too_many(check, seen, against, gate.false_halt_rate) and not early:
                        yield 1.0, 1.0
                elif gate.cluster:
                    certain = check.allowed <= 0 and against
                    yield (sequential.MOST if certain else 1.0), needed
                else:
                    yield (1.0 if early else said.highest(cohort.order, check.allowed)), needed
