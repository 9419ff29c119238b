"""Two variants on one device: what it measured of each, and whether that can be compared.

Best is one run that timed both in turns; else both must be valid and of the same hardware and
stack. Energy of two kinds is not compared. What cannot be said has its reason.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fitment.core.measurement import Latency, Measurement, ReadingStatus, Verdict


class Quantity(enum.Enum):
    """What is compared."""

    LATENCY = "latency"  # median, in ms
    ENERGY = "energy"  # of one inference, in mJ
    AGREEMENT = "agreement"  # share of reference inputs answered like fp32
    MEMORY = "memory"  # peak, in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A number with its interval; ``why`` says why there is none, or no interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A measurement of one of the two on one device."""

    device: str
    profile: str
    at: float  # unix seconds by the controller's clock
    source: str  # id of the deployment or study
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOnDevice:
    """What one device measured of one variant."""

    verdict: Verdict
    reasons: tuple[str, ...]
    runs: int  # that the median is over
    latency_ms: Reading
    p95_ms: Reading
    energy_mj: Reading
    energy_how: str  # "measured, rapl:package-0"; empty: no value
    agreement: Reading
    memory_bytes: Reading
    hardware: str
    stack: str
    at: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice:
    """Both on one device. ``changes``: B over A; for agreement B less A."""

    device: str
    profile: str
    emulated: bool
    a: SideOnDevice | None
    b: SideOnDevice | None
    interleaved: bool = False  # one run timed both in turns
    changes: Mapping[str, Reading] = field(default_factory=dict)  # by `Quantity` value


def on_device(
    key: tuple[str, str, bool], taken: Sequence[Taken], a: frozenset[str], b: frozenset[str]
) -> OnDevice:
    """Both as one device (profile, name, emulated) measured them; ``taken`` is its own."""
    profile, device, emulated = key
    of_a, of_b = _newest(taken, a), _newest(taken, b)
    both = _newest([t for t in taken if _interleaves(t, a, b)], a | b)
    changes = {quantity.value: change(quantity, of_a, of_b) for quantity in Quantity}
    if both is not None and both.measurement.verdict is Verdict.VALID:
        turned = both.measurement.bundle in a
        timed, beside = both.measurement.latency, both.measurement.baseline_latency
        if timed is not None and beside is not None:
            pair = (timed, beside) if turned else (beside, timed)
            changes[Quantity.LATENCY.value] = _ratio_of(*pair)
    else:
        both = None
    return OnDevice(
        device=device, profile=profile, emulated=emulated, interleaved=both is not None,
        a=None if of_a is None else _side(of_a), b=None if of_b is None else _side(of_b),
        changes=changes,
    )  # fmt: skip


def counts(quantity: Quantity, verdict: Verdict) -> bool:
    """Whether a measurement of this verdict tells this quantity: an emulator's answers are real."""
    answers = quantity is Quantity.AGREEMENT and verdict is Verdict.EMULATED
    return answers or verdict is Verdict.VALID


def _newest(taken: Iterable[Taken], of: frozenset[str]) -> Taken | None:
    """The newest that counts, else the newest."""
    mine = [t for t in taken if t.measurement.bundle in of]
    return max(
        mine, key=lambda t: (t.measurement.verdict is Verdict.VALID, t.at, t.source), default=None
    )


def _interleaves(one: Taken, a: frozenset[str], b: frozenset[str]) -> bool:
    found = one.measurement
    here, there = found.bundle, found.baseline
    return (here in a and there in b) or (here in b and there in a)


def change(quantity: Quantity, a: Taken | None, b: Taken | None) -> Reading:
    """B beside A as one device measured them, each for itself; or why that says nothing."""
    if a is None or b is None:
        missing = " and ".join(name for name, one in (("A", a), ("B", b)) if one is None)
        return Reading(why=f"{missing} was not measured here")
    for name, one in (("A", a), ("B", b)):
        if not counts(quantity, one.measurement.verdict):
            return Reading(why=f"{name}'s measurement is {one.measurement.verdict.value}")
    first, second = a.measurement, b.measurement
    if (first.hardware, first.stack) != (second.hardware, second.stack):
        return Reading(why="the two were measured on different hardware or stacks")
    if quantity is Quantity.LATENCY:
        if first.latency is None or second.latency is None:
            return Reading(why="one of them was not timed")
        return _ratio_of(first.latency, second.latency)
    return _alone(quantity, first, second)


def _alone(quantity: Quantity, a: Measurement, b: Measurement) -> Reading:
    """Quantities of which one measurement has one value."""
    why = "one value a device"
    if quantity is Quantity.AGREEMENT:
        if a.agreement is None or b.agreement is None:
            return Reading(why="one of them was not compared with fp32")
        return Reading(value=b.agreement - a.agreement, why=why)
    if quantity is Quantity.MEMORY:
        if not a.peak_memory_bytes or b.peak_memory_bytes is None:
            return Reading(why="one of them has no peak memory")
        return Reading(value=b.peak_memory_bytes / a.peak_memory_bytes, why=why)
    one, other = a.energy, b.energy
    if not one.value_mj or other.value_mj is None:
        return Reading(why=(one if not one.value_mj else other).reason or "no energy was read")
    if (one.status, one.scope) != (other.status, other.scope):
        return Reading(why=f"{_how(a)} there, {_how(b)} here: no two of a kind")
    return Reading(value=other.value_mj / one.value_mj, why=why)


def _ratio_of(a: Latency, b: Latency) -> Reading:
    """Of medians. With each interval at 95 %, that of the ratio has at least 90 % (Bonferroni)."""
    if a.p50_ms <= 0 or a.p50_low_ms <= 0 or a.p50_high_ms <= 0:
        return Reading(why="the clock of one was too coarse")
    return Reading(
        value=b.p50_ms / a.p50_ms, low=b.p50_low_ms / a.p50_high_ms,
        high=b.p50_high_ms / a.p50_low_ms,
    )  # fmt: skip


def _side(one: Taken) -> SideOnDevice:
    found = one.measurement
    timed = found.latency
    none = "; ".join(found.reasons) or "it was not timed"
    p95 = timed.p95_ms if timed is not None else None
    return SideOnDevice(
        verdict=found.verdict, reasons=found.reasons, runs=timed.count if timed else 0,
        latency_ms=Reading(why=none) if timed is None else Reading(
            value=timed.p50_ms, low=timed.p50_low_ms, high=timed.p50_high_ms
        ),
        p95_ms=Reading(value=p95, why="" if p95 is not None else "too few runs support it"),
        energy_mj=Reading(
            value=found.energy.value_mj,
            why="" if found.energy.value_mj is not None else found.energy.reason or "no sensor",
        ),
        energy_how=_how(found) if found.energy.value_mj is not None else "",
        agreement=Reading(
            value=found.agreement,
            why="" if found.agreement is not None else "not compared with fp32",
        ),
        memory_bytes=Reading(
            value=found.peak_memory_bytes,
            why="" if found.peak_memory_bytes is not None else "peak memory was not read",
        ),
        hardware=found.hardware, stack=found.stack, at=one.at, source=one.source,
    )  # fmt: skip


def _how(found: Measurement) -> str:
    energy = found.energy
    known = energy.status is not ReadingStatus.UNAVAILABLE and energy.method
    return f"{energy.status.value}, {energy.method}" if known else str(energy.status.value)
