"""How variants answer in the field: the labels of a rollout, with and without its release.

A device is held against itself: its answers with the new release beside those with the one before.
Where a control group has labels enough, what went worse there meanwhile is taken off (difference in
differences: Card and Krueger 1994), so that a season is not laid on a variant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import holding, sequential
from controller.domain.fleet import Device, Rollout
from controller.domain.labels import HOUR_S, FieldTally
from controller.domain.shares import wilson

GATES = frozenset({"field accuracy drop", "field slices", "must-pass"})
"""Names of the gates that listen to labels."""
FIRST = 50
"""A device's word about its drop is that of so many labels, and then stays: one word a device."""
CHANCE = 0.01
"""That a device whose answers are as good as before is ever said to be surely worse."""
CONTROL_LEAST = 100
"""Labels that a control group needs, before and since, to be compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Answers that were judged, and how many were right."""

    count: int = 0
    right: int = 0
    must: int = 0
    must_wrong: int = 0
    corrections: int = 0

    def plus(self, tally: FieldTally) -> Count:
        """With what an hour adds."""
        return Count(
            count=self.count + tally.count, right=self.right + tally.right,
            must=self.must + tally.must, must_wrong=self.must_wrong + tally.must_wrong,
            corrections=self.corrections + tally.corrections,
        )  # fmt: skip

    @property
    def wrong(self) -> int:
        return self.count - self.right

    @property
    def accuracy(self) -> float | None:
        """Share that was right; None where nothing was judged."""
        return self.right / self.count if self.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the control group's accuracy did while the rollout ran."""

    before: Count = field(default_factory=Count)
    since: Count = field(default_factory=Count)

    @property
    def enough(self) -> bool:
        return min(self.before.count, self.since.count) >= CONTROL_LEAST

    @property
    def drop(self) -> float:
        """By how much it fell; 0 where there are too few to tell."""
        if not self.enough:
            return 0.0
        return (self.before.accuracy or 0.0) - (self.since.accuracy or 0.0)

    def drop_most(self, alpha: float) -> float:
        """What it fell by at most, with a chance of ``alpha`` to be wrong; 0 with too few."""
        if not self.enough:
            return 0.0
        _, high = sequential.share_bounds(self.since.count, self.since.wrong, alpha / 2)
        low, _ = sequential.share_bounds(self.before.count, self.before.wrong, alpha / 2)
        return max(0.0, high - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What its labels say of one device of a rollout."""

    drop: float | None = None  # of its first labels; None: there are too few
    surely: float | None = None  # the most that it, or a slice of it, is surely worse by
    where: str = ""  # the slice that it is of; empty: all answers
    must: int = 0
    must_wrong: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One part of the data in one group of devices."""

    group: str  # "new", "old", "control before", "control since"
    slice: str
    counted: Count
    low: float  # 95 %, Wilson
    high: float


def words(
    rollout: Rollout, tallies: Mapping[str, Sequence[FieldTally]], devices: Mapping[str, Device]
) -> dict[str, Word]:
    """What each device that has labels of both releases says, by name.

    Args:
        rollout: whose release is the new one.
        tallies: by device, all that there are.
        devices: of the rollout and of its control group.
    """
    control = changes(rollout, tallies, devices)
    found = {}
    for name, mine in tallies.items():
        device = devices.get(name)
        if device is None or holding.is_held(rollout, device):
            continue
        new, old = parted(rollout, mine)
        if new:
            found[name] = _word(new, old, control)
    return found


def parted(
    rollout: Rollout, tallies: Sequence[FieldTally]
) -> tuple[list[FieldTally], list[FieldTally]]:
    """A device's tallies of the rollout's release, and of the one that it had before.

    What it had later is neither: a release that mends this one is no measure of it.
    """
    new = [t for t in tallies if t.release == rollout.release]
    first = min((t.start_s for t in new), default=math.inf)
    others = [t for t in tallies if t.release != rollout.release and t.start_s < first]
    last = max(others, key=lambda t: t.start_s, default=None)
    return new, [t for t in others if last is not None and t.release == last.release]


def changes(
    rollout: Rollout, tallies: Mapping[str, Sequence[FieldTally]], devices: Mapping[str, Device]
) -> dict[str, Change]:
    """What the control group did before the rollout and since it began, by slice.

    Each of its devices with the one release that it had when the rollout began.
    """
    found: dict[str, Change] = {}
    for name, mine in tallies.items():
        device = devices.get(name)
        if device is None or not rollout.control_below or not holding.belongs(rollout, device):
            continue
        for tally in _stayed(rollout, mine):
            known = found.get(tally.slice, Change())
            if tally.start_s + HOUR_S <= rollout.created_at:
                found[tally.slice] = replace(known, before=known.before.plus(tally))
            elif tally.start_s >= rollout.created_at:  # the hour of its beginning is neither
                found[tally.slice] = replace(known, since=known.since.plus(tally))
    return found


def _stayed(rollout: Rollout, tallies: Sequence[FieldTally]) -> list[FieldTally]:
    """Tallies of what a device had when the rollout began."""
    before = [
        t for t in tallies if t.release != rollout.release and t.start_s <= rollout.created_at
    ]
    last = max(before, key=lambda t: t.start_s, default=None)
    return [t for t in tallies if last is not None and t.release == last.release]


def summed(tallies: Iterable[FieldTally]) -> dict[str, Count]:
    """By slice; the empty name is all answers."""
    found: dict[str, Count] = {}
    for tally in tallies:
        found[tally.slice] = found.get(tally.slice, Count()).plus(tally)
    return found


def slices(group: str, counts: Mapping[str, Count]) -> tuple[Slice, ...]:
    """Rows for people: each count with its interval."""
    return tuple(
        Slice(group=group, slice=name, counted=counts[name], low=bounds[0], high=bounds[1])
        for name in sorted(counts)
        for bounds in (wilson(counts[name].right, counts[name].count),)
    )


def _word(
    new: Sequence[FieldTally], old: Sequence[FieldTally], control: Mapping[str, Change]
) -> Word:
    before, now = summed(old), summed(new)
    surely, where = _surely(new, before, now, control)
    whole = now.get("", Count())
    return Word(
        drop=_first_drop(new, before.get("", Count()), control.get("", Change())),
        surely=surely, where=where, must=whole.must, must_wrong=whole.must_wrong,
    )  # fmt: skip


def _first_drop(new: Sequence[FieldTally], old: Count, control: Change) -> float | None:
    """The drop over the first hours that have `FIRST` labels together.

    How many are looked at does not depend on what they say, so the word cannot be sought out.
    """
    first = Count()
    for tally in sorted((t for t in new if not t.slice), key=lambda t: t.start_s):
        first = first.plus(tally)
        if first.count >= FIRST:
            break
    if min(first.count, old.count) < FIRST:
        return None
    return (old.accuracy or 0.0) - (first.accuracy or 0.0) - control.drop


def _surely(
    new: Sequence[FieldTally], before: Mapping[str, Count], now: Mapping[str, Count],
    control: Mapping[str, Change],
) -> tuple[float | None, str]:  # fmt: skip
    """The greatest drop that is sure, and of which slice.

    All answers have half of the chance to be wrong, slices the other half: 1/2, 1/6, 1/12, … of it
    in the order in which they turned up. Bounds hold at all looks together.
    """
    met: dict[str, int] = {}
    for tally in sorted(new, key=lambda t: (t.start_s, t.slice)):
        if tally.slice:
            met.setdefault(tally.slice, len(met))
    best: tuple[float | None, str] = (None, "")
    for name, counted in now.items():
        old = before.get(name, Count())
        if not counted.count or not old.count:
            continue
        part = 1.0 if not name else 1 / ((met[name] + 1) * (met[name] + 2))
        alpha = CHANCE / 2 * part / 3  # for now, before, and the control group
        low, _ = sequential.share_bounds(counted.count, counted.wrong, alpha)
        _, high = sequential.share_bounds(old.count, old.wrong, alpha)
        change = control.get(name, Change())
        change = change if change.enough else control.get("", Change())
        drop = low - high - change.drop_most(alpha)
        if best[0] is None or drop > best[0]:
            best = (drop, name)
    return best
