"""What devices that stay behind say of energy, memory and heat while a wave runs.

What a device takes is held against what its last release took there, which may be a season ago.
The control group tells what else has changed since: at each wave some of its devices time again
what they run, beside what it took when they got it. A ratio is then divided by theirs, and the
share that may be throttled grows by theirs.

The claim that a gate bets against must be sure, so a bound stands for the control group's word
that errs with a chance of ``alpha``, taken once, when all have answered or are given up: for the
value that a share ``above`` of devices exceeds, an order statistic (David and Nagaraja, Order
Statistics, 7.1); for a share, Clopper and Pearson (1934). One device speaks for its cluster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import sequential
from controller.domain.fleet import Deployment
from controller.domain.studies import ControlMark, StudyRecord

MOST = 60
"""Devices of a cohort that are asked at a wave; more would tell little more."""
WAIT_S = 900.0
"""How long a wave waits for them."""
PART = 0.5
"""Of a gate's part of the false-halt rate, for the control group's bound; over all waves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One device of the control group, asked at a wave."""

    cohort: str  # key
    mark: ControlMark
    open: bool  # it has not answered yet
    seen: Deployment  # as if it had just got what it runs, so that gates read it like any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the control group's devices of one cohort changed by at one wave, for one gate."""

    said: int = 0  # clusters
    open: int = 0  # devices that have not answered yet
    middle: float | None = None  # the value that a share exceeds, or a share; of those that said
    most: float | None = None  # its bound; None: too few for one


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The same for every wave; a wave at which nobody was asked is not corrected."""

    by_wave: Mapping[int, Change] = field(default_factory=dict)
    bound: bool = True  # use the bound; else the middle, where nothing is statistical anyhow

    def of(self, wave: int) -> float | None:
        """By what to correct; None: by nothing."""
        found = self.by_wave.get(wave, Change())
        return found.most if self.bound else found.middle

    def waits(self, wave: int) -> bool:
        """Whether the control group has not said all of it yet."""
        return self.by_wave.get(wave, Change()).open > 0

    def highest(self) -> float:
        """Of all waves, for a share; 0 where nothing is corrected."""
        found = [self.of(wave) for wave in self.by_wave]
        return max((one for one in found if one is not None), default=0.0)


def kept(study: StudyRecord) -> Kept:
    """A study of the control group as gates read it.

    Raises:
        ValueError: the study was asked for another reason.
    """
    mark = study.control
    if mark is None:
        raise ValueError(f"study {study.id} is of no control group")
    seen = Deployment(
        id=study.id, rollout="", release="", device=study.device, slot="", wave=mark.wave,
        variant=study.bundle.variant, created_at=study.created_at, measurement=study.measurement,
        energy_before_mj=mark.energy_before_mj, before=mark.before,
    )  # fmt: skip
    return Kept(cohort=study.cohort.key, mark=mark, open=not study.done_at, seen=seen)


def changes(
    every: Sequence[Kept],
    read: Callable[[Deployment], float | None],
    *,
    above: float | None,
    alpha: float,
    waves: int,
) -> dict[int, Change]:
    """What a cohort's control group says to one gate, by wave.

    Args:
        every: its devices, whenever asked, in the order of the draw.
        read: the gate's number of one device.
        above: share of devices that may exceed a ratio; None: the number is 0 or 1 and of the
            share is spoken.
        alpha: chance that one of the bounds of all waves errs.
        waves: how many there are.
    """
    found = {}
    for wave in {k.mark.wave for k in every}:
        there = [k for k in every if k.mark.wave == wave]
        values: dict[str, float] = {}
        for one in there:
            value = None if one.open else read(one.seen)
            if value is not None:
                values.setdefault(one.mark.cluster, value)
        known = _change(list(values.values()), above, alpha / waves)
        found[wave] = replace(known, open=sum(one.open for one in there))
    return found


def _change(values: Sequence[float], above: float | None, alpha: float) -> Change:
    if not values:
        return Change()
    if above is None:
        share = statistics.fmean(values)
        return Change(
            said=len(values), middle=share, most=most_share(len(values), share, alpha)
        )  # fmt: skip
    return Change(
        said=len(values), middle=statistics.median(values), most=most_value(values, above, alpha)
    )  # fmt: skip


def most_value(values: Sequence[float], above: float, alpha: float) -> float | None:
    """A bound from above for the value that a share ``above`` of devices exceeds.

    The k-th greatest is below it only when fewer than k of the values reach it, which has a chance
    of ``P(Binomial(n, above) < k)`` at most; k is the greatest for which that is ``alpha`` or
    less. None: not even the greatest is sure enough.
    """
    ordered = sorted(values, reverse=True)
    count = len(ordered)
    found = None
    for place, value in enumerate(ordered):
        if 1 - sequential.tail(count, place + 1, above) > alpha:
            break
        found = value
    return found


def most_share(count: int, share: float, alpha: float) -> float:
    """A bound from above for a share: at a greater one so few had a chance below ``alpha``."""
    total = round(share * count)
    low, high = share, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if 1 - sequential.tail(count, total + 1, middle) <= alpha:
            high = middle
        else:
            low = middle
    return high
