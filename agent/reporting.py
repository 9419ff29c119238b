"""The reported state: all that this device says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from agent.desk import Desk
from agent.domain.plan import QUARANTINE_AFTER
from agent.domain.record import DeploymentRecord, SlotFacts
from agent.sensors import process_memory
from fitment import __version__
from fitment.core import digest
from fitment.core.deployment import UNDERSTANDS_WINDOWS, ReportedState, SlotReport
from fitment.core.fingerprint import Fingerprint

STUDIES_REPORTED: Final = 32
"""Newest ones; the controller forgets a study soon after it is done."""
_NOTES: Final = 24


def build(
    desk: Desk, fingerprint: Fingerprint, active: DeploymentRecord | None, *,
    boot_id: str, notes: Iterable[str], time_zone: str = "",
) -> ReportedState:  # fmt: skip
    """The state of now, without the supervisor's memory, which changes all the time."""
    journal = desk.journal
    slots = journal.slots()
    studies = journal.studies()
    records = [*journal.ended(), *([active] if active is not None else [])]
    said = [
        *notes,
        *(f"slot {facts.slot}: {facts.reason}" for facts in slots if facts.reason),
        *(f"study {study}: {note}" for study, note in studies.items() if note),
        *_quarantined(journal.quarantine()),
    ]
    return ReportedState(
        boot_id=boot_id,
        agent_version=__version__,
        observed_generation=int(journal.setting("generation", "0")),
        fingerprint=fingerprint,
        slots=tuple(_slot(facts, desk.stack) for facts in slots),
        deployments=tuple(record.report() for record in records),
        studies_done=tuple(studies)[-STUDIES_REPORTED:],
        notes=tuple(said)[-_NOTES:],
        time_zone=time_zone,
        understands=(UNDERSTANDS_WINDOWS,),
    )


def with_memory(state: ReportedState) -> ReportedState:
    """The same with this process's memory; null where the kernel does not tell."""
    memory = process_memory(os.getpid())
    return replace(
        state,
        supervisor_anonymous_bytes=memory.anonymous_bytes,
        supervisor_pss_bytes=memory.pss_bytes,
    )


def serving(facts: SlotFacts, stack: str) -> bool:
    """Whether a slot's variant may be used: it answered the goldens, on this very stack."""
    return bool(facts.variant) and facts.golden_ok is True and facts.checked_stack == stack


def _slot(facts: SlotFacts, stack: str) -> SlotReport:
    return SlotReport(
        slot=facts.slot,
        variant=facts.variant,
        name=facts.name,
        release=facts.release,
        counter=facts.counter,
        calibration=facts.calibration,
        golden_ok=facts.golden_ok,
        integer_coverage=facts.integer_coverage,
        serving=serving(facts, stack),
        checked_stack=facts.checked_stack,
    )


def _quarantined(failures: dict[str, int]) -> list[str]:
    held = [(key.split("/"), count) for key, count in failures.items() if count >= QUARANTINE_AFTER]
    return [
        f"slot {slot}: variant {digest.short(variant)} is in quarantine after {count} failures"
        for (slot, variant, _stack), count in held
    ]
