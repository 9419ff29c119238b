"""Triggers and the audit log as lines, and lists of models and rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.dashboard.views.words import State, Tone
from controller.domain import fleet
from controller.domain.tickets import NO_CAUSE, Ticket, TicketState
from fitment.core import digest

SHOWN_MOST = 200
LONG_NUMBER = 24
"""Digits beyond which a number is a serial: nobody reads those in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRow:
    """A stated reason to fit again, and what came of it."""

    id: str
    at: float
    kind: str
    device: str
    more: int  # devices that it is for beside that one
    model: str  # id
    model_name: str
    state: State
    reason: str
    result: str
    rollout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketRow:
    """One device that does worse than its kind."""

    id: str
    at: float
    device: str
    state: State
    summary: str
    causes: tuple[str, ...]  # what sensors show, or that none does
    numbers: str
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One decision or act."""

    id: str
    at: float
    actor: str
    action: str
    subject: str
    page: tuple[str, ...]  # where the subject is shown
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The newest entries that match."""

    rows: tuple[AuditRow, ...]
    matching: int
    total: int


def trigger_rows(
    triggers: Sequence[fleet.Trigger], names: Mapping[str, str]
) -> tuple[TriggerRow, ...]:
    """Open ones first, then the newest; at most `SHOWN_MOST`."""
    ordered = sorted(triggers, key=lambda t: (bool(t.closed_at), -t.created_at))
    return tuple(
        TriggerRow(
            id=t.id, at=t.created_at, kind=t.kind.value.replace("_", " "), device=t.device,
            more=len(t.joined) - 1,
            model=t.model, model_name=names.get(t.model, short(t.model)),
            state=State(word="closed", tone=Tone.QUIET) if t.closed_at else State(
                word="open", tone=Tone.WARN
            ),
            reason=t.reason, result=t.result or t.waits, rollout=t.rollout,
        )
        for t in ordered[:SHOWN_MOST]
    )  # fmt: skip


_TONES = {
    TicketState.OPEN: Tone.WARN,
    TicketState.ACKNOWLEDGED: Tone.BUSY,
    TicketState.CLOSED: Tone.QUIET,
}


def ticket_rows(tickets: Sequence[Ticket]) -> tuple[TicketRow, ...]:
    """Open ones first, then the newest; at most `SHOWN_MOST`."""
    ordered = sorted(tickets, key=lambda t: (bool(t.closed_at), -t.opened_at))
    return tuple(
        TicketRow(
            id=t.id, at=t.opened_at, device=t.device, summary=t.summary,
            state=State(word=t.state.value, tone=_TONES[t.state]),
            causes=t.causes or (NO_CAUSE,), result=t.result or _looks(t),
            numbers=", ".join(f"{key.replace('_', ' ')} {v:.4g}" for key, v in t.numbers.items()),
        )
        for t in ordered[:SHOWN_MOST]
    )  # fmt: skip


def _looks(ticket: Ticket) -> str:
    return f"{ticket.acknowledged_by} looks at it" if ticket.acknowledged_by else ""


def audit(
    entries: Sequence[fleet.AuditEntry], pages: Mapping[str, tuple[str, ...]], wanted: str = ""
) -> Audit:
    """Newest first. ``pages`` says which subjects have a page."""
    rows = [_audit_row(entry, pages) for entry in reversed(entries)]
    matching = [row for row in rows if _holds(row, wanted)] if wanted else rows
    return Audit(rows=tuple(matching[:SHOWN_MOST]), matching=len(matching), total=len(rows))


def _audit_row(entry: fleet.AuditEntry, pages: Mapping[str, tuple[str, ...]]) -> AuditRow:
    return AuditRow(
        id=entry.id, at=entry.at, actor=entry.actor, action=entry.action.replace("_", " "),
        subject=entry.subject, page=pages.get(entry.subject, ()),
        details=tuple(
            (key if "/" in key else key.replace("_", " "), value)
            for key, value in entry.details.items() if value
        ),
    )  # fmt: skip


def _holds(row: AuditRow, wanted: str) -> bool:
    parts = [row.actor, row.action, row.subject, *(f"{key}={value}" for key, value in row.details)]
    line = " ".join(parts).lower()
    return all(word in line for word in wanted.lower().split())


def short(text: str) -> str:
    """A digest, an id or a serial as people recognize it; anything else as it is."""
    if text.startswith("sha256:"):
        return digest.short(text)
    if len(text) == 36 and text.count("-") == 4:
        return f"{text[:8]}…{text[-4:]}"
    return f"{text[:6]}…{text[-4:]}" if text.isdecimal() and len(text) > LONG_NUMBER else text
