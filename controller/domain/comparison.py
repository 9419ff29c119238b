"""Two variants beside each other, on every device that measured both, and on each kind of device.

What is compared is what devices measured: their deployments and studies (`paired`). A run that was
disturbed is shown and counts for nothing. Over devices medians are given with a
distribution-free interval of 95 % (order statistics); it takes six devices, and where there are
fewer they are counted one by one and the word is "not statistical".
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controller.domain.fleet import Variant
from controller.domain.paired import (
    OnDevice,
    Quantity,
    Reading,
    SideOnDevice,
    Taken,
    counts,
    on_device,
)
from fitment.core.measurement import Verdict

STATISTICAL: int = 6
"""Devices that it takes: the least and the most of five cover a median with 93.75 % only."""


class Finding(enum.Enum):
    """How B does beside A."""

    BETTER = "better"  # the whole interval is on the good side
    WORSE = "worse"  # the whole interval is on the bad side
    NO_DIFFERENCE = "no difference told"  # the interval holds "the same"
    LEANS_BETTER = "leans better"  # too few for statistics, and one value a device
    LEANS_WORSE = "leans worse"
    MIXED = "mixed"  # too few for statistics, and they do not agree
    UNKNOWN = "unknown"  # no device can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity over the devices of a group."""

    quantity: Quantity
    a: Reading  # median over devices
    a_devices: int
    b: Reading
    b_devices: int
    change: Reading  # median over devices of each one's own change
    pairs: int  # devices that measured both comparably
    finding: Finding
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A kind of device; stand-ins are a group of their own."""

    profile: str
    emulated: bool
    devices: int
    left_out: Mapping[str, int] = field(default_factory=dict)  # verdict -> disturbed measurements
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: a name of a model version, and the bundles that have it."""

    name: str
    model: str  # model version id
    model_name: str
    version: str
    variants: tuple[Variant, ...] = field(default_factory=tuple)  # one a target

    @property
    def digests(self) -> frozenset[str]:
        """Of its bundles."""
        return frozenset(v.bundle.variant for v in self.variants)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two variants beside each other; changes are B by A."""

    a: Side
    b: Side
    groups: tuple[Group, ...] = ()
    devices: tuple[OnDevice, ...] = ()


def compare(
    a: frozenset[str], b: frozenset[str], taken: Iterable[Taken]
) -> tuple[tuple[Group, ...], tuple[OnDevice, ...]]:
    """Both beside each other: by kind of device, and device by device.

    Args:
        a: variant digests of the one, which the other is measured by.
        b: variant digests of the other.
        taken: of either, in any order; of other variants none.
    """
    by_device: dict[tuple[str, str, bool], list[Taken]] = {}
    for one in taken:
        key = (one.profile, one.device, one.measurement.emulated)
        by_device.setdefault(key, []).append(one)
    devices = tuple(on_device(key, by_device[key], a, b) for key in sorted(by_device))
    kinds = sorted({(d.profile, d.emulated) for d in devices})
    groups = (
        _group(kind, [d for d in devices if (d.profile, d.emulated) == kind]) for kind in kinds
    )
    return tuple(groups), devices


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Bounds that hold the median with 95 % at least; None below six values.

    The ranks ``k`` and ``n + 1 - k`` with the largest ``k`` for which
    ``P(Binomial(n, 1/2) < k) <= 2.5 %`` (David and Nagaraja, Order Statistics, 7.1).
    """
    count = len(values)
    if count < STATISTICAL:
        return None
    ordered = sorted(values)
    if count > 1000:
        rank = math.floor(count / 2 - 1.96 * math.sqrt(count) / 2)
    else:
        ways, rank = 0, 0
        while (ways := ways + math.comb(count, rank)) <= 0.025 * 2**count:
            rank += 1
    return ordered[rank - 1], ordered[count - rank]


def _group(kind: tuple[str, bool], devices: Sequence[OnDevice]) -> Group:
    left_out: dict[str, int] = {}
    for side in (side for d in devices for side in (d.a, d.b)):
        if side is not None and side.verdict is not Verdict.VALID:
            left_out[side.verdict.value] = left_out.get(side.verdict.value, 0) + 1
    return Group(
        profile=kind[0], emulated=kind[1], devices=len(devices), left_out=left_out,
        rows=tuple(_row(quantity, devices) for quantity in Quantity),
    )  # fmt: skip


READ: Mapping[Quantity, Callable[[SideOnDevice], Reading]] = {
    Quantity.LATENCY: lambda side: side.latency_ms,
    Quantity.ENERGY: lambda side: side.energy_mj,
    Quantity.AGREEMENT: lambda side: side.agreement,
    Quantity.MEMORY: lambda side: side.memory_bytes,
}
"""Where a quantity is in what one device measured."""


def _row(quantity: Quantity, devices: Sequence[OnDevice]) -> Row:
    of_a = _values(quantity, [d.a for d in devices])
    of_b = _values(quantity, [d.b for d in devices])
    changes = [d.changes[quantity.value] for d in devices]
    known = [c for c in changes if c.value is not None]
    middle = _middle([c.value for c in known if c.value is not None])
    if not known:
        whys = sorted({c.why for c in changes})
        middle = Reading(why="; ".join(whys))
    finding, because = judge(quantity, middle, known)
    return Row(
        quantity=quantity, a=_middle(of_a), a_devices=len(of_a), b=_middle(of_b),
        b_devices=len(of_b), change=middle, pairs=len(known), finding=finding, because=because,
    )  # fmt: skip


def _values(quantity: Quantity, sides: Iterable[SideOnDevice | None]) -> list[float]:
    readings = [
        READ[quantity](side)
        for side in sides
        if side is not None and counts(quantity, side.verdict)
    ]
    return [r.value for r in readings if r.value is not None]


def _middle(values: Sequence[float]) -> Reading:
    """Median over devices."""
    if not values:
        return Reading(why="no device has a valid value")
    bounds = median_interval(values)
    middle = statistics.median(values)
    if bounds is None:
        why = f"{len(values)} device(s): an interval takes {STATISTICAL}"
        return Reading(value=middle, why=why)
    return Reading(value=middle, low=bounds[0], high=bounds[1])


def judge(quantity: Quantity, middle: Reading, changes: Sequence[Reading]) -> tuple[Finding, str]:
    """How B does, and by what; changes are ratios, or differences of agreement."""
    if middle.value is None:
        return Finding.UNKNOWN, middle.why
    same = 0.0 if quantity is Quantity.AGREEMENT else 1.0
    if middle.low is not None and middle.high is not None:
        told = _side_of(quantity, middle, same)
        return told, f"the median over {len(changes)} devices, with 95 %"
    each = [_side_of(quantity, c, same) for c in changes]
    counted = ", ".join(
        f"{sum(one is finding for one in each)} {finding.value}"
        for finding in (Finding.BETTER, Finding.WORSE, Finding.NO_DIFFERENCE)
        if finding in each
    )
    words = f"not statistical: of {len(each)} device(s) {counted}"
    if len(set(each)) > 1:
        return Finding.MIXED, words
    bare = all(c.low is None for c in changes)  # then a device cannot tell luck from a difference
    return (_LEANS.get(each[0], each[0]) if bare else each[0]), words


_LEANS: Mapping[Finding, Finding] = {
    Finding.BETTER: Finding.LEANS_BETTER,
    Finding.WORSE: Finding.LEANS_WORSE,
}


def _side_of(quantity: Quantity, found: Reading, same: float) -> Finding:
    """On which side of "the same" the interval lies, or the value where it has none."""
    low = found.low if found.low is not None else found.value
    high = found.high if found.high is not None else found.value
    if low is None or high is None or low <= same <= high:
        return Finding.NO_DIFFERENCE
    more = low > same
    good = more if quantity is Quantity.AGREEMENT else not more
    return Finding.BETTER if good else Finding.WORSE
