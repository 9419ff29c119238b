"""One device's life as one list: what it was, ran, measured, and what was said of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controller.domain.belonging import Note
from controller.domain.fleet import AuditEntry, Deployment, Trigger
from controller.domain.studies import StudyRecord
from controller.domain.tickets import Ticket
from fitment.core import digest
from fitment.core.deployment import CalibrationReport
from fitment.core.measurement import Measurement, ReadingStatus

FINGERPRINT_CHANGED = "fingerprint_changed"
"""Action under which a changed fingerprint is on record, with what changed."""


class Kind(enum.Enum):
    """What an entry tells of."""

    BELONGING = "belonging"  # enrolled, renewed, revoked, decommissioned, labelled
    FINGERPRINT = "fingerprint"  # it became something else, or matched another profile
    DEPLOYMENT = "deployment"  # a release came to it, or ended there
    MEASUREMENT = "measurement"  # a benchmark, of a deployment or a study
    CALIBRATION = "calibration"  # what it found out from its own data
    TRIGGER = "trigger"  # a reason to fit again
    TICKET = "ticket"  # it does worse than its kind
    NOTE = "note"  # what somebody wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry."""

    at: float
    kind: Kind
    what: str  # a line for people
    subject: str  # id of the record that it is about; the device's name for its own
    actor: str = ""  # who did it, where somebody did
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All that is on record of one device."""

    deployments: Sequence[Deployment] = ()
    studies: Sequence[StudyRecord] = ()
    triggers: Sequence[Trigger] = ()
    tickets: Sequence[Ticket] = ()
    notes: Sequence[Note] = ()
    audit: Sequence[AuditEntry] = ()  # with the device as subject
    names: Mapping[str, str] = field(default_factory=dict)  # variant digest -> name


_OWN: Mapping[str, tuple[Kind, str]] = {
    "applied": (Kind.BELONGING, "asked to be let in"),
    "approved": (Kind.BELONGING, "was let in by an operator"),
    "rejected": (Kind.BELONGING, "was refused"),
    "admitted": (Kind.BELONGING, "was enrolled"),
    "renewed": (Kind.BELONGING, "renewed its certificate"),
    "readmitted": (Kind.BELONGING, "was put on record again"),
    "revoked": (Kind.BELONGING, "was revoked"),
    "decommissioned": (Kind.BELONGING, "was decommissioned"),
    "labelled": (Kind.BELONGING, "was labelled"),
    "unknown_device": (Kind.BELONGING, "called, and was not on record"),
    "profile_matched": (Kind.FINGERPRINT, "matched a profile"),
    FINGERPRINT_CHANGED: (Kind.FINGERPRINT, "became something else"),
}
"""Action in the audit log to what it tells; others have records of their own."""


def of(records: Records) -> tuple[Event, ...]:
    """Everything, oldest first."""
    found = [
        *_acts(records.audit),
        *(event for d in records.deployments for event in _deployment(d, records.names)),
        *(event for study in records.studies for event in _study(study, records.names)),
        *(_trigger(trigger) for trigger in records.triggers),
        *(event for ticket in records.tickets for event in _ticket(ticket)),
        *(_note(note) for note in records.notes),
    ]
    return tuple(sorted(found, key=lambda event: event.at))


def _acts(audit: Sequence[AuditEntry]) -> Iterable[Event]:
    for entry in audit:
        if entry.action in _OWN:
            kind, words = _OWN[entry.action]
            yield Event(
                at=entry.at, kind=kind, what=words, subject=entry.subject, actor=entry.actor,
                details=entry.details,
            )  # fmt: skip


def _deployment(found: Deployment, names: Mapping[str, str]) -> Iterable[Event]:
    name = names.get(found.variant, digest.short(found.variant))
    again = f", attempt {found.attempt}" if found.attempt > 1 else ""
    of_it = {"release": found.release, "rollout": found.rollout, "slot": found.slot}
    yield Event(
        at=found.created_at, kind=Kind.DEPLOYMENT, subject=found.id, details=of_it,
        what=f"{found.slot}: {name} was ordered{again}",
    )  # fmt: skip
    ended_at = found.ended_at or found.created_at
    if found.measurement is not None:
        yield _measured(found.measurement, ended_at, found.id, name)
    if found.calibration is not None:
        yield _calibrated(found.calibration, ended_at, found.id)
    if found.outcome is not None:
        why = {"reasons": "; ".join(found.reasons)} if found.reasons else {}
        yield Event(
            at=found.ended_at, kind=Kind.DEPLOYMENT, subject=found.id, details={**of_it, **why},
            what=f"{found.slot}: {name} {found.outcome.value}",
        )  # fmt: skip


def _study(found: StudyRecord, names: Mapping[str, str]) -> Iterable[Event]:
    at, name = found.done_at or found.created_at, found.bundle.name
    if found.measurement is not None:
        yield _measured(found.measurement, at, found.id, names.get(found.bundle.variant, name))
    elif found.kernels is not None:
        table = found.kernels
        words = f"probed {len(table.timings)} kernels of {table.runtime}, {table.verdict.value}"
        yield Event(at=at, kind=Kind.MEASUREMENT, subject=found.id, what=words)
    elif found.failed:
        words = f"answered nothing about {name}: {found.failed}"
        yield Event(at=at, kind=Kind.MEASUREMENT, subject=found.id, what=words)


def _measured(taken: Measurement, at: float, subject: str, name: str) -> Event:
    numbers = {"verdict": taken.verdict.value, "runtime": taken.runtime}
    if taken.latency is not None:
        numbers["p50_ms"] = f"{taken.latency.p50_ms:.4g}"
        numbers["p95_ms"] = f"{taken.latency.p95_ms:.4g}"
    if taken.agreement is not None:
        numbers["agreement"] = f"{taken.agreement:.4f}"
    if taken.energy.value_mj is not None and taken.energy.status is not ReadingStatus.UNAVAILABLE:
        numbers["energy_mj"] = f"{taken.energy.value_mj:.4g} {taken.energy.status.value}"
    if taken.emulated:
        numbers["emulated"] = "yes"
    speed = f", {taken.latency.p50_ms:.4g} ms median" if taken.latency is not None else ""
    what = f"measured {name}{speed}, {taken.verdict.value}"
    return Event(at=at, kind=Kind.MEASUREMENT, what=what, subject=subject, details=numbers)


def _calibrated(report: CalibrationReport, at: float, subject: str) -> Event:
    details = {"samples": str(report.samples), "reason": report.reason}
    if report.drift is not None:
        details["drift"] = f"{report.drift:.4f}"
    if report.agreement_before is not None and report.agreement_after is not None:
        details["agreement"] = f"{report.agreement_before:.4f} → {report.agreement_after:.4f}"
    words = "applied" if report.applied else "not applied"
    what = f"calibration ({report.mode.value}) {words}: {report.reason}"
    return Event(at=at, kind=Kind.CALIBRATION, what=what, subject=subject, details=details)


def _trigger(found: Trigger) -> Event:
    details = {"result": found.result} if found.result else {}
    return Event(
        at=found.created_at, kind=Kind.TRIGGER, subject=found.id, details=details,
        what=f"{found.kind.value.replace('_', ' ')}: {found.reason}",
    )  # fmt: skip


def _ticket(found: Ticket) -> Iterable[Event]:
    causes = {"causes": "; ".join(found.causes)} if found.causes else {}
    yield Event(
        at=found.opened_at, kind=Kind.TICKET, what=found.summary or "does worse than its kind",
        subject=found.id, details=causes,
    )  # fmt: skip
    if found.closed_at:
        what = f"ticket closed: {found.result}" if found.result else "ticket closed"
        yield Event(at=found.closed_at, kind=Kind.TICKET, what=what, subject=found.id)


def _note(found: Note) -> Event:
    return Event(at=found.at, kind=Kind.NOTE, what=found.text, subject=found.id, actor=found.author)
