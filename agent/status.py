"""What ``fitment-agent status`` shows: the journal, read beside the agent that writes it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from agent import ledger
from agent.clock import EARLIEST_UNIX
from agent.config import Settings
from agent.desk import Folders
from agent.domain.allowance import size
from agent.domain.record import SlotFacts
from agent.errors import JournalError, NotEnrolledError
from agent.hardware import read_metering
from agent.journal import Journal, read_journal
from agent.ladder import Stood, stored
from fitment.core import digest
from fitment.core.deployment import AllowanceReport, DeploymentReport

_HISTORY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the agent has on disk, and what is left of its allowance."""

    observed_generation: int
    slots: tuple[SlotFacts, ...]
    stands: Mapping[str, Stood]  # slot with a ladder -> which rung serves, since when and why
    deployments: tuple[DeploymentReport, ...]  # newest first
    telemetry_waiting: int
    submissions_waiting: int
    allowance: AllowanceReport


def read(folders: Folders, settings: Settings) -> Status:
    """Read the journal and the ledger.

    Raises:
        NotEnrolledError: no agent has run here.
        JournalError: the journal cannot be read.
    """
    if not folders.journal.exists():
        raise NotEnrolledError(
            f"no agent has run in {folders.data_dir}: enrol first (fitment-agent enroll), then "
            "fitment-agent run"
        )
    journal = read_journal(folders.journal)
    try:
        return _read(journal, folders, settings)
    finally:
        journal.close()


def _read(journal: Journal, folders: Folders, settings: Settings) -> Status:
    ((waiting,),) = journal.rows("SELECT count(*) FROM outbox")
    slots = journal.slots()
    stands = {facts.slot: stored(journal, facts.slot) for facts in slots if facts.ladder}
    return Status(
        observed_generation=journal.highest_generation(),
        slots=slots,
        stands={slot: stood for slot, stood in stands.items() if stood is not None},
        deployments=tuple(record.report() for record in journal.history(_HISTORY)),
        telemetry_waiting=int(waiting),
        submissions_waiting=len(journal.submissions()),
        allowance=allowance(folders, settings),
    )


def allowance(
    folders: Folders, settings: Settings, now_unix: float | None = None
) -> AllowanceReport:
    """What is used of this device's allowance, as far as it is written down."""
    asked, floor_unix = settings.allowance, EARLIEST_UNIX
    if folders.journal.exists():
        with (
            contextlib.suppress(JournalError),
            contextlib.closing(read_journal(folders.journal)) as journal,
        ):
            floor_unix = max(floor_unix, float(journal.setting("time_floor", "0")))
    now_unix = time.time() if now_unix is None else now_unix
    spent = ledger.stored(folders.data_dir, asked, now_unix, floor_unix)
    told = ledger.said(asked)
    metering = read_metering(settings.hardware.root) if told.metered is None else told
    return ledger.as_report(asked, spent, metering)


def allowance_words(used: AllowanceReport) -> str:
    """The same for people."""
    month = _used("this month", used.transferred_bytes, used.transfer_bytes_per_month)
    day = _used("today", used.written_bytes, used.write_bytes_per_day)
    words = {True: "metered", False: "not metered", None: "taken as not metered"}[used.metered]
    return f"{month} transferred, {day} written; the link is {words} ({used.metered_why})"


def _used(when: str, count: int, cap: int) -> str:
    return f"{when} {size(count)}" + (f" of {size(cap)}" if cap else "")


def render(status: Status) -> str:
    """The same for people."""
    lines = [_slot(facts) for facts in status.slots] or ["no slot holds a model yet"]
    lines += [
        f"slot {slot}: rung {stood.rung} serves" + (f": {stood.reason}" if stood.reason else "")
        for slot, stood in status.stands.items()
    ]
    lines += [_deployment(report) for report in status.deployments]
    lines.append(
        f"waiting for the controller: {status.telemetry_waiting} telemetry batches, "
        f"{status.submissions_waiting} results"
    )
    lines.append(f"allowance: {allowance_words(status.allowance)}")
    return "\n".join(lines)


def _slot(facts: SlotFacts) -> str:
    if not facts.variant:
        return f"slot {facts.slot}: empty"
    answers = {True: "answers right", False: "answers wrongly", None: "not checked"}
    calibrated = ", calibrated" if facts.calibration else ""
    return (
        f"slot {facts.slot}: {facts.name} {digest.short(facts.variant)}, release counter "
        f"{facts.counter}{calibrated}, {answers[facts.golden_ok]}"
    )


def _deployment(report: DeploymentReport) -> str:
    end = report.outcome.value if report.outcome else report.state.value
    said = report.held or (report.reasons[-1] if report.reasons else "")
    why = f": {said}" if said else ""
    return f"deployment {report.deployment} to {report.slot}: {end}{why}"
