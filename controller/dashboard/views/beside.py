"""Two variants beside each other: the comparison as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.dashboard.views import words
from controller.dashboard.views.words import State, Tone, Value
from controller.domain import fleet
from controller.domain.comparison import READ, Comparison, Finding, Group, Row, Side
from controller.domain.paired import OnDevice, Quantity, Reading, SideOnDevice
from fitment.core.measurement import Verdict

SHOWN_MOST = 200
"""Devices in the table; the rest is counted in the groups all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a visitor asks for, and what there is to ask for."""

    a: str = ""
    b: str = ""
    model: str = ""  # id or name; empty: any
    names: tuple[str, ...] = ()  # of variants that fits have made
    found: Comparison | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What fits found out about one of the two."""

    name: str
    model: str  # id
    model_name: str
    bundles: tuple[str, ...]
    runtime: str
    accuracy: Value
    agreement: Value
    file: Value
    wire: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One quantity over a kind of device."""

    name: str
    a: Value
    b: Value
    change: Value
    finding: State
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A ratio on the picture's scale, with its interval where it has one."""

    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of device."""

    profile: str
    emulated: bool
    devices: int
    left_out: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]  # of quantities that are ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class SideCell:
    """One variant as one device timed it."""

    state: State
    p50: Value
    at: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """Both on one device."""

    device: str
    profile: str
    emulated: bool
    a: SideCell | None
    b: SideCell | None
    latency: Value  # B by A, as are the others; their notes say both
    energy: Value
    agreement: Value
    memory: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The page."""

    asked: Asked
    evidence: tuple[Evidence, ...]
    kinds: tuple[Kind, ...]
    devices: tuple[DeviceLine, ...]
    total: int


_FINDINGS = {
    Finding.BETTER: Tone.GOOD,
    Finding.WORSE: Tone.BAD,
    Finding.NO_DIFFERENCE: Tone.QUIET,
    Finding.LEANS_BETTER: Tone.BUSY,
    Finding.LEANS_WORSE: Tone.WARN,
    Finding.MIXED: Tone.WARN,
    Finding.UNKNOWN: Tone.QUIET,
}


def beside(asked: Asked) -> Beside:
    """The page from what was found."""
    found = asked.found
    if found is None:
        return Beside(asked=asked, evidence=(), kinds=(), devices=(), total=0)
    return Beside(
        asked=asked,
        evidence=(_evidence(found.a), _evidence(found.b)),
        kinds=tuple(_kind(group) for group in found.groups),
        devices=tuple(_device(d) for d in found.devices[:SHOWN_MOST]),
        total=len(found.devices),
    )


def names_of(jobs: Sequence[fleet.FitJob]) -> tuple[str, ...]:
    """Of all variants that fits have made."""
    return tuple(sorted({v.name for job in jobs for v in job.variants}))


def _evidence(side: Side) -> Evidence:
    first = side.variants[0]
    accuracy = words.percent(first.accuracy, "no labels to score with")
    if first.accuracy is not None and first.accuracy_interval is not None:
        low, high = first.accuracy_interval
        accuracy = Value(text=accuracy.text, note=f"95 %: {low * 100:.2f}–{high * 100:.2f}")
    return Evidence(
        name=side.name,
        model=side.model,
        model_name=f"{side.model_name} {side.version}",
        bundles=tuple(v.bundle.variant.removeprefix("sha256:")[:12] for v in side.variants),
        runtime=", ".join(sorted({v.runtime for v in side.variants})),
        accuracy=accuracy,
        agreement=words.percent(first.agreement, ""),
        file=words.size(first.file_bytes, ""),
        wire=words.size(first.wire_bytes, ""),
    )


def _kind(group: Group) -> Kind:
    return Kind(
        profile=group.profile or "no profile",
        emulated=group.emulated,
        devices=group.devices,
        left_out=", ".join(f"{count} {verdict}" for verdict, count in group.left_out.items()),
        lines=tuple(_line(row) for row in group.rows),
        marks=tuple(
            Mark(name=row.quantity.value, value=row.change.value, low=row.change.low,
                 high=row.change.high)
            for row in group.rows
            if row.quantity is not Quantity.AGREEMENT and row.change.value
        ),
    )  # fmt: skip


def _line(row: Row) -> Line:
    return Line(
        name=row.quantity.value,
        a=_counted(quantity(row.quantity, row.a), row.a_devices),
        b=_counted(quantity(row.quantity, row.b), row.b_devices),
        change=_counted(change(row.quantity, row.change), row.pairs),
        finding=State(word=row.finding.value, tone=_FINDINGS[row.finding]),
        because=row.because,
    )


def _counted(found: Value, devices: int) -> Value:
    if found.missing:
        return found
    number = f"{devices} device{'s' * (devices != 1)}"
    return Value(text=found.text, note=f"{found.note}, {number}" if found.note else number)


def quantity(kind: Quantity, found: Reading) -> Value:
    """A value with its unit; the interval is its note."""
    if found.value is None:
        return words.none(found.why)
    text = _text(kind, found.value)
    if found.low is None or found.high is None:
        return Value(text=text)
    return Value(text=text, note=f"{_text(kind, found.low)} to {_text(kind, found.high)}")


def change(kind: Quantity, found: Reading) -> Value:
    """B by A: a ratio, or points of agreement; the interval is its note."""
    if found.value is None:
        return words.none(found.why)

    def one(value: float) -> str:
        return f"{value * 100:+.2f}" if kind is Quantity.AGREEMENT else f"× {value:.3f}"

    unit = " points" if kind is Quantity.AGREEMENT else ""
    if found.low is None or found.high is None:
        return Value(text=one(found.value) + unit)
    return Value(text=one(found.value) + unit, note=f"{one(found.low)} to {one(found.high)}")


def _text(kind: Quantity, value: float) -> str:
    if kind is Quantity.LATENCY:
        return words.milliseconds(value, "").text
    if kind is Quantity.ENERGY:
        return f"{value:.3g} mJ"
    if kind is Quantity.AGREEMENT:
        return words.percent(value, "").text
    return words.size(int(value), "").text


def _device(found: OnDevice) -> DeviceLine:
    latency = change(Quantity.LATENCY, found.changes[Quantity.LATENCY.value])
    if found.interleaved and not latency.missing:
        latency = Value(text=latency.text, note=f"{latency.note}, interleaved")
    return DeviceLine(
        device=found.device, profile=found.profile, emulated=found.emulated,
        a=None if found.a is None else _cell(found.a),
        b=None if found.b is None else _cell(found.b),
        latency=latency, energy=_both(Quantity.ENERGY, found),
        agreement=_both(Quantity.AGREEMENT, found), memory=_both(Quantity.MEMORY, found),
    )  # fmt: skip


def _both(kind: Quantity, found: OnDevice) -> Value:
    """The change, and both values; where there is no change, why."""
    changed = found.changes[kind.value]
    shown = change(kind, changed)
    sides = [words.DASH if s is None else quantity(kind, READ[kind](s)).text
             for s in (found.a, found.b)]  # fmt: skip
    if sides == [words.DASH, words.DASH]:
        return shown
    said = f"{sides[0]} to {sides[1]}"
    return Value(text=shown.text, note=f"{said}: {changed.why}" if shown.missing else said)


def _cell(side: SideOnDevice) -> SideCell:
    good = side.verdict is Verdict.VALID
    p50 = quantity(Quantity.LATENCY, side.latency_ms)
    if not p50.missing:
        p95 = quantity(Quantity.LATENCY, side.p95_ms)
        tail = f", p95 {p95.text}" if not p95.missing else f", no p95: {p95.note}"
        p50 = Value(text=p50.text, note=f"{p50.note}, {side.runs} runs{tail}")
    return SideCell(
        state=State(word=side.verdict.value, tone=Tone.GOOD if good else Tone.WARN),
        p50=p50,
        at=side.at,
        reasons=() if good else side.reasons,
    )
