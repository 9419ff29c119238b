"""One device: its twin, what it holds, its history and its newest telemetry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.dashboard.views import words
from controller.dashboard.views.journal import TicketRow, ticket_rows
from controller.dashboard.views.words import State, Value, none
from controller.domain import field, fleet
from controller.domain.belonging import Note
from controller.domain.history import Event
from controller.domain.labels import FieldTally
from controller.domain.tickets import Ticket
from fitment.core import digest
from fitment.core.deployment import AllowanceReport, CalibrationReport, RungReport, SlotReport
from fitment.core.fingerprint import Facet

HISTORY_MOST = 50
TIMELINE_MOST = 100
NOTES_MOST = 50
SAMPLES_MOST = 120

COLUMNS: Mapping[str, str] = {
    "last_latency_p50_ms": "median latency, newest run (ms)",
    "temperature_c": "temperature (°C)",
    "cpu_mhz": "processor clock (MHz)",
    "cpu_pressure_avg10_percent": "processor pressure, 10 s (%)",
    "supervisor_anonymous_mib": "agent's own memory (MiB)",
}
"""What agents sample, and what people call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecords:
    """What a device's page is made from."""

    device: fleet.Device
    deployments: Sequence[fleet.Deployment] = ()
    names: Mapping[str, str] | None = None  # variant digest -> name
    series: Mapping[str, tuple[tuple[float, float], ...]] | None = None  # newest first
    samples: int = 0
    events: Sequence[Event] = ()  # all that is on record, oldest first
    tickets: Sequence[Ticket] = ()
    notes: Sequence[Note] = ()  # that operators wrote, oldest first
    tallies: Sequence[FieldTally] = ()  # of labels from the field


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """What one slot holds and serves."""

    slot: str
    name: str
    state: State
    golden: State
    coverage: Value
    calibration: Value
    counter: str
    release: str
    rung: Value  # which one serves, and why
    rung_since: float  # 0: it was never another
    ladder: tuple[str, ...]  # what stands ready below the chosen variant, a sentence a rung


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One deployment as the device lived it."""

    id: str
    at: float
    slot: str
    variant: str
    rollout: str
    state: State
    reasons: tuple[str, ...]
    p50: Value
    p95: Value
    ratio: Value
    agreement: Value
    energy: Value
    memory: Value
    calibration: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One entry of its life."""

    at: float
    kind: str
    what: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One quantity over time, oldest first, without gaps."""

    name: str
    points: tuple[tuple[float, float], ...]
    newest: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """One device's page."""

    name: str
    state: State
    emulated: bool
    profile: Value
    cohort: Value
    labels: str
    enrolled_at: float
    last_seen: float
    agent: Value
    facets: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    slots: tuple[SlotRow, ...]
    notes: tuple[str, ...]
    history: tuple[HistoryRow, ...]
    older: int  # deployments beyond the shown ones
    series: tuple[Series, ...]
    samples: int
    timeline: tuple[EventRow, ...]  # newest first
    tickets: tuple[TicketRow, ...] = ()
    allowance: tuple[str, ...] = ()  # what it has used of what it may transfer and write
    held: tuple[str, ...] = ()  # orders that wait for that
    written: tuple[Note, ...] = ()  # newest first
    accuracy: tuple[AccuracyRow, ...] = ()  # by labels, newest release first


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """What labels from the field say of one release on the device."""

    release: str
    variant: str
    slice: str  # empty: all answers
    labels: int
    right: Value  # with its interval
    must_wrong: int  # answers that must never be wrong, and were
    corrections: int


def twin(records: DeviceRecords) -> Twin:
    """A device's page."""
    device, reported = records.device, records.device.reported
    names = records.names or {}
    newest_first = sorted(records.deployments, key=lambda d: d.created_at, reverse=True)
    silent = "it has not reported yet"
    return Twin(
        name=device.name,
        state=words.device_state(device),
        emulated=words.is_emulated(device),
        profile=_text(device.profile, device.profile_reason, silent),
        cohort=_text(device.cohort.key if device.cohort else "", "", silent),
        labels=", ".join(f"{key}={value}" for key, value in device.labels.items()),
        enrolled_at=device.enrolled_at,
        last_seen=device.last_seen,
        agent=_text(reported.agent_version if reported else "", "", silent),
        facets=_facets(device),
        slots=tuple(slot_row(slot) for slot in reported.slots) if reported else (),
        notes=reported.notes if reported else (),
        history=tuple(history_row(d, names) for d in newest_first[:HISTORY_MOST]),
        older=max(0, len(newest_first) - HISTORY_MOST),
        series=tuple(
            series(COLUMNS[column], values, sampled=records.samples > 0)
            for column, values in (records.series or {}).items()
        ),
        samples=records.samples,
        timeline=tuple(event_row(e) for e in [*records.events][: -TIMELINE_MOST - 1 : -1]),
        tickets=ticket_rows(records.tickets),
        allowance=_allowance(reported.allowance) if reported else (),
        held=tuple(_held(d, names) for d in newest_first if d.held and d.outcome is None),
        written=tuple(records.notes[: -NOTES_MOST - 1 : -1]),
        accuracy=_accuracy(records.tallies, names),
    )


def _allowance(used: AllowanceReport | None) -> tuple[str, ...]:
    if used is None:
        return ()
    link = {True: "metered", False: "not metered", None: "taken as not metered"}[used.metered]
    return (
        f"{_used(used.transferred_bytes, used.transfer_bytes_per_month)} transferred this month",
        f"{_used(used.written_bytes, used.write_bytes_per_day)} written today",
        f"its link is {link}" + (f" ({used.metered_why})" if used.metered_why else ""),
    )


def _used(count: int, cap: int) -> str:
    return f"{count / 1e6:.1f} MB" + (f" of {cap / 1e6:.1f} MB" if cap else "")


def _held(deployment: fleet.Deployment, names: Mapping[str, str]) -> str:
    name = variant_name(deployment.variant, names)
    return f"{deployment.slot}: {name} waits, {deployment.held}"


def _accuracy(tallies: Sequence[FieldTally], names: Mapping[str, str]) -> tuple[AccuracyRow, ...]:
    """A line a release and slice; all answers of a release first."""
    by_release: dict[tuple[str, str], list[FieldTally]] = {}
    for tally in sorted(tallies, key=lambda t: t.start_s, reverse=True):
        by_release.setdefault((tally.release, tally.variant), []).append(tally)
    return tuple(
        _accuracy_row(release, variant_name(variant, names), part)
        for (release, variant), mine in by_release.items()
        for part in field.slices("", field.summed(mine))
    )


def _accuracy_row(release: str, variant: str, part: field.Slice) -> AccuracyRow:
    counted = part.counted
    right = none("corrections alone say no share")
    if counted.accuracy is not None:
        bounds = f"{part.low:.1%} to {part.high:.1%}"
        right = Value(text=f"{counted.accuracy:.1%}", note=bounds)
    return AccuracyRow(
        release=release, variant=variant, slice=part.slice, labels=counted.count, right=right,
        must_wrong=counted.must_wrong, corrections=counted.corrections,
    )  # fmt: skip


def event_row(event: Event) -> EventRow:
    """One entry as a line; who did it stands first."""
    by = (("by", event.actor),) if event.actor else ()
    given = tuple((key, value) for key, value in event.details.items() if value)
    return EventRow(at=event.at, kind=event.kind.value, what=event.what, details=(*by, *given))


def slot_row(slot: SlotReport) -> SlotRow:
    """One slot as a line."""
    if slot.rung:
        serving = State(word="serving a lesser variant", tone=words.Tone.WARN)
    elif slot.serving:
        serving = State(word="serving", tone=words.Tone.GOOD)
    else:
        tone = words.Tone.WARN if slot.variant else words.Tone.QUIET
        serving = State(word="not serving", tone=tone)
    return SlotRow(
        slot=slot.slot,
        name=slot.name if slot.variant else words.DASH,
        state=serving,
        golden=_golden(slot.golden_ok),
        coverage=words.percent(slot.integer_coverage, "not reported", 0),
        calibration=Value(text=digest.short(slot.calibration))
        if slot.calibration
        else none("as shipped"),
        counter=str(slot.counter) if slot.counter else words.DASH,
        release=slot.release,
        rung=_rung(slot),
        rung_since=slot.rung_since_unix,
        ladder=tuple(_lesser(rung) for rung in slot.ladder),
    )


def _rung(slot: SlotReport) -> Value:
    if not slot.rung:
        return Value(text="chosen", note=slot.rung_reason) if slot.ladder else none("no ladder")
    name = next((r.name for r in slot.ladder if r.rung == slot.rung), "")
    return Value(text=f"{slot.rung}: {name}", note=slot.rung_reason)


def _lesser(rung: RungReport) -> str:
    kind = " (portable)" if rung.portable else ""
    timed = f", {rung.p50_ms:.2f} ms p50" if rung.p50_ms is not None else ""
    state = "ready" if rung.ready else f"not ready: {rung.reason}"
    return f"rung {rung.rung}: {rung.name}{kind}{timed}, {state}"


def history_row(deployment: fleet.Deployment, names: Mapping[str, str]) -> HistoryRow:
    """One deployment as a line."""
    taken = deployment.measurement
    nothing = "nothing was measured"
    return HistoryRow(
        id=deployment.id,
        at=deployment.created_at,
        slot=deployment.slot,
        variant=variant_name(deployment.variant, names),
        rollout=deployment.rollout,
        state=words.deployment_state(deployment),
        reasons=deployment.reasons,
        p50=words.latency(taken, nothing),
        p95=words.p95(taken.latency if taken else None),
        ratio=words.against(taken),
        agreement=words.percent(taken.agreement if taken else None, nothing),
        energy=words.energy(taken.energy) if taken else none(nothing),
        memory=words.size(taken.peak_memory_bytes if taken else None, nothing),
        calibration=calibration(deployment.calibration),
    )


def calibration(report: CalibrationReport | None) -> Value:
    """What calibration on the device found and did."""
    if report is None:
        return none("not asked")
    if not report.applied:
        return none(f"not applied: {report.reason}")
    parts = [f"{report.samples} samples"]
    if report.drift is not None:
        parts.append(f"drift {report.drift:.2f}")
    if report.agreement_before is not None and report.agreement_after is not None:
        parts.append(f"agreement {report.agreement_before:.2%} → {report.agreement_after:.2%}")
    return Value(text=f"{report.mode.value} applied", note=", ".join(parts))


def series(name: str, newest_first: Sequence[tuple[float, float]], *, sampled: bool) -> Series:
    """A quantity over time; moments at which the sensor was silent are left out."""
    points = tuple(sorted((at, value) for at, value in newest_first if not math.isnan(value)))
    if points:
        newest = Value(text=f"{points[-1][1]:.4g}")
    else:
        newest = none("no sensor says it" if sampled else "no sample yet")
    return Series(name=name, points=points, newest=newest)


def variant_name(key: str, names: Mapping[str, str]) -> str:
    """A variant's name, or the beginning of its digest."""
    return names.get(key, digest.short(key))


def names_of(jobs: Sequence[fleet.FitJob]) -> dict[str, str]:
    """Variant digests and what people call them."""
    return {v.bundle.variant: v.name for job in jobs for v in job.variants}


def _facets(device: fleet.Device) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    if device.reported is None:
        return ()
    seen = device.reported.fingerprint
    named: tuple[tuple[str, Facet], ...] = (
        ("hardware", seen.hardware),
        ("stack", seen.stack),
        ("condition", seen.condition),
        ("chassis", seen.chassis),
    )
    return tuple((name, tuple(sorted(facet.facts.items()))) for name, facet in named)


def _golden(answer: bool | None) -> State:
    if answer is None:
        return State(word="not checked", tone=words.Tone.QUIET)
    return State(word="right", tone=words.Tone.GOOD) if answer else State(
        word="wrong", tone=words.Tone.BAD
    )  # fmt: skip


def _text(text: str, note: str, why: str) -> Value:
    return Value(text=text, note=note) if text else none(note or why)
