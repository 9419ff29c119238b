"""What ``fitment-agent status`` shows: the journal, read beside the agent that writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.desk import Folders
from agent.domain.record import SlotFacts
from agent.errors import NotEnrolledError
from agent.journal import Journal, read_journal
from agent.ladder import Stood, stored
from fitment.core import digest
from fitment.core.deployment import DeploymentReport

_HISTORY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the agent has on disk."""

    observed_generation: int
    slots: tuple[SlotFacts, ...]
    stands: Mapping[str, Stood]  # slot with a ladder -> which rung serves, since when and why
    deployments: tuple[DeploymentReport, ...]  # newest first
    telemetry_waiting: int
    submissions_waiting: int


def read(folders: Folders) -> Status:
    """Read the journal.

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
        return _read(journal)
    finally:
        journal.close()


def _read(journal: Journal) -> Status:
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
    )


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
    why = f": {report.reasons[-1]}" if report.reasons else ""
    return f"deployment {report.deployment} to {report.slot}: {end}{why}"
