"""The reported state: all that this device says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from agent import trusted
from agent.desk import Desk
from agent.domain import rungs
from agent.domain.ladder import Health, Place
from agent.domain.plan import QUARANTINE_AFTER
from agent.domain.record import DeploymentRecord, SlotFacts
from agent.ladder import Stood
from agent.sensors import process_memory
from agent.telemetry import Serves
from fitment import __version__
from fitment.core import digest
from fitment.core.deployment import (
    UNDERSTANDS_INPUT,
    UNDERSTANDS_STACKS,
    UNDERSTANDS_WINDOWS,
    AllowanceReport,
    Outcome,
    ReportedState,
    RungReport,
    SlotReport,
)
from fitment.core.fingerprint import Fingerprint

STUDIES_REPORTED: Final = 32
"""Newest ones; the controller forgets a study soon after it is done."""
_NOTES: Final = 24


def build(
    desk: Desk, fingerprint: Fingerprint, active: DeploymentRecord | None, *,
    boot_id: str, notes: Iterable[str], stood: Mapping[str, Stood],
    asked: frozenset[str] = frozenset(), time_zone: str = "",
) -> ReportedState:  # fmt: skip
    """The state of now, without the numbers that change all the time.

    ``asked``: the deployments that the controller wishes for. Of those that ended long ago it is
    told again how: it was restored from a backup, and would wait for them in vain.
    """
    journal = desk.journal
    slots = journal.slots()
    by_name = {facts.slot: facts for facts in slots}
    absent = _absent(active, journal.history()) if _any_absent(by_name) else {}
    studies = journal.studies()
    records = [*journal.ended(), *journal.told_again(asked)]
    records += [active] if active is not None else []
    said = [
        *notes,
        *(
            f"slot {facts.slot}: {facts.reason}"
            for facts in rungs.chosen_only(slots)
            if facts.reason
        ),
        *(f"study {study}: {note}" for study, note in studies.items() if note),
        *_quarantined(journal.quarantine()),
    ]
    return ReportedState(
        boot_id=boot_id,
        agent_version=__version__,
        observed_generation=journal.highest_generation(),
        fingerprint=fingerprint,
        slots=tuple(
            _slot(facts, by_name, desk.stack, stood.get(facts.slot, Stood()), absent)
            for facts in rungs.chosen_only(slots)
        ),
        deployments=tuple(record.report() for record in records),
        studies_done=tuple(studies)[-STUDIES_REPORTED:],
        notes=tuple(said)[-_NOTES:],
        time_zone=time_zone,
        understands=(UNDERSTANDS_WINDOWS, UNDERSTANDS_INPUT, UNDERSTANDS_STACKS),
        quarantined=_held(journal.quarantine(), desk.stack),
        metadata_versions=trusted.versions(desk.folders.metadata),
    )


def with_numbers(state: ReportedState, allowance: AllowanceReport) -> ReportedState:
    """The same with what changes all the time and is worth no report of its own.

    That is the allowance, and this process's memory; null where the kernel does not tell.
    """
    memory = process_memory(os.getpid())
    return replace(
        state,
        supervisor_anonymous_bytes=memory.anonymous_bytes,
        supervisor_pss_bytes=memory.pss_bytes,
        allowance=allowance,
    )


def serving(facts: SlotFacts, stack: str) -> bool:
    """Whether a slot's variant may be used: what it was admitted for holds on this very stack."""
    return rungs.health(facts, facts.variant, stack)[0] is Health.GOOD


def at_home(facts: SlotFacts, slots: Mapping[str, SlotFacts], stack: str, rung: int) -> bool:
    """Whether the rung that serves was made for this very stack, and holds on it."""
    found = rungs.ladder(facts, slots, stack)[rung : rung + 1]
    return any(r.place is Place.HERE and r.health is Health.GOOD for r in found)


def serves(slots: Iterable[SlotFacts], stood: Mapping[str, Stood]) -> dict[str, Serves]:
    """By slot: the variant and the rung that serve now."""
    found = {}
    for facts in rungs.chosen_only(slots):
        rung = stood.get(facts.slot, Stood()).rung
        lesser = facts.ladder[rung - 1 : rung] if rung else ()
        variant = lesser[0].bundle.variant if lesser else facts.variant
        if variant:
            found[facts.slot] = Serves(variant=variant, rung=rung, laddered=bool(facts.ladder))
    return found


def ladder(
    facts: SlotFacts, slots: Mapping[str, SlotFacts], stack: str,
    absent: Mapping[str, str] = MappingProxyType({}),
) -> tuple[RungReport, ...]:  # fmt: skip
    """The lesser variants of a slot, as they are held here; ``absent``: slot -> why it is empty."""
    found = []
    for number, (lesser, rung) in enumerate(
        zip(facts.ladder, rungs.ladder(facts, slots, stack)[1:], strict=True), 1
    ):
        name = rungs.rung_slot(facts.slot, number)
        held = slots.get(name)
        there = held is not None and held.variant == lesser.bundle.variant
        why = rung.why if there else absent.get(name) or rung.why
        found.append(
            RungReport(
                rung=number, variant=lesser.bundle.variant, name=lesser.bundle.name,
                portable=lesser.portable, ready=rung.health is Health.GOOD,
                reason=why if rung.health is not Health.GOOD else lesser.reason,
                p50_ms=held.p50_ms if held is not None and there else None, stacks=lesser.stacks,
            )
        )  # fmt: skip
    return tuple(found)


def _absent(active: DeploymentRecord | None, ended: Iterable[DeploymentRecord]) -> dict[str, str]:
    """Slot of a rung to why it does not hold what it should: the newest that is known."""
    found: dict[str, str] = {}
    for record in (*((active,) if active is not None else ()), *ended):
        name = record.assignment.slot
        failed = record.attempts > 0 if record.outcome is None else True
        bad = failed and record.outcome is not Outcome.COMMITTED
        why = record.held or (record.reasons[-1] if record.reasons and bad else "")
        if record.rung and why and name not in found:
            found[name] = why
    return found


def _any_absent(slots: Mapping[str, SlotFacts]) -> bool:
    return any(
        slots.get(rungs.rung_slot(facts.slot, n), facts).variant != lesser.bundle.variant
        for facts in rungs.chosen_only(slots.values())
        for n, lesser in enumerate(facts.ladder, 1)
    )


def _slot(
    facts: SlotFacts, slots: Mapping[str, SlotFacts], stack: str, stood: Stood,
    absent: Mapping[str, str],
) -> SlotReport:  # fmt: skip
    return SlotReport(
        slot=facts.slot,
        variant=facts.variant,
        name=facts.name,
        release=facts.release,
        counter=facts.counter,
        calibration=facts.calibration,
        golden_ok=facts.golden_ok,
        integer_coverage=facts.integer_coverage,
        serving=serving(facts, stack) or at_home(facts, slots, stack, stood.rung),
        checked_stack=facts.checked_stack,
        ladder=ladder(facts, slots, stack, absent),
        rung=stood.rung,
        rung_since_unix=stood.since_unix,
        rung_reason=stood.reason,
    )


def _quarantined(failures: dict[str, int]) -> list[str]:
    held = [(key.split("/"), count) for key, count in failures.items() if count >= QUARANTINE_AFTER]
    return [
        f"slot {slot}: variant {digest.short(variant)} is in quarantine after {count} failures"
        for (slot, variant, _stack), count in held
    ]


def _held(failures: dict[str, int], stack: str) -> tuple[str, ...]:
    """``slot/variant`` of what is in quarantine on this very stack."""
    suffix = f"/{stack}"
    held = [key for key, count in failures.items() if count >= QUARANTINE_AFTER]
    return tuple(sorted(key.removesuffix(suffix) for key in held if key.endswith(suffix)))
