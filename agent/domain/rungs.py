"""Where lesser variants live, and what is to be done about them.

Rung *n* of slot ``digits`` has a slot of its own, ``digits~n``: no order can name it, so nothing
but a ladder fills it, and whatever holds for slots holds for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Final

from agent.domain.ladder import Health, Place, Rung
from agent.domain.record import DeploymentRecord, SlotFacts, is_for_others
from fitment.core.deployment import (
    Assignment,
    CalibrationPlan,
    DeviceGates,
    Lesser,
    SignedPayload,
)

MOST_TRIES: Final = 5
"""Deployments of one rung for one release; an outage ends none of them."""
DEADLINE_S: Final = 7 * 86400.0
"""Nobody waits for a rung, so it may wait for the network."""
_MARK: Final = "~"


def rung_slot(slot: str, rung: int) -> str:
    """The slot that holds a rung; the chosen variant's is the slot itself."""
    return f"{slot}{_MARK}{rung}" if rung else slot


def parted(name: str) -> tuple[str, int]:
    """Slot and rung of a slot's name."""
    slot, mark, rung = name.rpartition(_MARK)
    return (slot, int(rung)) if mark and rung.isdigit() else (name, 0)


def chosen_only(slots: Iterable[SlotFacts]) -> tuple[SlotFacts, ...]:
    """The slots that orders name."""
    return tuple(facts for facts in slots if not parted(facts.slot)[1])


def surplus(slots: Sequence[SlotFacts]) -> str:
    """A rung's slot whose release is gone, or empty."""
    lengths = {facts.slot: len(facts.ladder) for facts in chosen_only(slots)}
    for facts in slots:
        slot, rung = parted(facts.slot)
        if rung > lengths.get(slot, 0):
            return facts.slot
    return ""


def missing(
    slots: Sequence[SlotFacts], known: frozenset[str], held: frozenset[str]
) -> tuple[str, int] | None:
    """Slot and number of the first rung that should be there and is not.

    Args:
        slots: facts of all slots.
        known: ids of all deployments that ended here.
        held: ``slot/variant`` of what is in quarantine on this stack.
    """
    variants = {facts.slot: facts.variant for facts in slots}
    for facts in chosen_only(slots):
        for rung, lesser in enumerate(facts.ladder, 1):
            name, variant = rung_slot(facts.slot, rung), lesser.bundle.variant
            if variants.get(name) == variant or f"{name}/{variant}" in held:
                continue
            if facts.order is not None and _name(facts, rung, known):
                return facts.slot, rung
    return None


def deployment(
    facts: SlotFacts, order: SignedPayload, assignment: Assignment, rung: int,
    known: frozenset[str], *, now_s: float,
) -> DeploymentRecord:  # fmt: skip
    """The device's own deployment of a rung, by the order that named it.

    It is gated by its goldens alone: it has to run, not to be fast. One for a stack has to run
    there by the kernels by which it was tested, too.
    """
    lesser = assignment.ladder[rung - 1]
    own = replace(
        assignment, deployment=_name(facts, rung, known), slot=rung_slot(facts.slot, rung),
        bundle=lesser.bundle, gates=DeviceGates(integer_coverage_min=lesser.coverage_min),
        calibration=CalibrationPlan(), ladder=(),
        deadline_s=DEADLINE_S, trial_s=0.0, windows=(),  # it stands ready; nothing is switched
    )  # fmt: skip
    return DeploymentRecord(
        order=order, assignment=own, rung=rung, stacks=lesser.stacks,
        started_at_s=now_s, state_entered_at_s=now_s,
    )  # fmt: skip


def health(facts: SlotFacts, variant: str, stack: str) -> tuple[Health, str]:
    """What is known of ``variant`` in a slot on this stack, and why it is bad."""
    if facts.variant != variant or not variant:
        return Health.BAD, "it is not there yet"
    if facts.damaged:
        return Health.BAD, facts.reason or "its files are damaged"
    if not stack or facts.checked_stack != stack:
        return Health.UNKNOWN, "it is being checked on this stack"
    if is_for_others(facts.stacks, stack):
        return Health.GOOD, ""  # its files are whole; more cannot be asked of it here
    if not facts.golden_ok:
        return Health.BAD, facts.reason
    share, asked = facts.integer_coverage, facts.coverage_min
    if share is not None and asked is not None and share < asked:
        words = f"{share:.2f} of its heavy operators run in integers on this stack"
        return Health.BAD, f"{words}, its order asks for {asked:.2f}"
    return Health.GOOD, ""


def ladder(facts: SlotFacts, slots: Mapping[str, SlotFacts], stack: str) -> tuple[Rung, ...]:
    """A slot's rungs as `agent.domain.ladder.step` takes them."""
    found, why = health(facts, facts.variant, stack)
    rungs = [Rung(health=found, why=why)]
    for number, lesser in enumerate(facts.ladder, 1):
        name = rung_slot(facts.slot, number)
        held = slots.get(name, SlotFacts(slot=name))
        found, why = health(held, lesser.bundle.variant, stack)
        rungs.append(
            Rung(
                health=found, relieves=frozenset(lesser.relieves), why=why,
                place=place(lesser, stack),
            )
        )  # fmt: skip
    return tuple(rungs)


def place(lesser: Lesser, stack: str) -> Place:
    """Whether a rung may serve on this stack."""
    if not lesser.stacks:
        return Place.ANYWHERE
    return Place.ELSEWHERE if is_for_others(lesser.stacks, stack) else Place.HERE


def recheck(slots: Iterable[SlotFacts], stack: str) -> str:
    """The slot whose check on this stack is due first, or empty.

    What is for this stack comes first, since it serves; then chosen variants, then their rungs.
    """
    due = [facts for facts in slots if facts.variant and facts.checked_stack != stack]
    first = min(
        due, default=None,
        key=lambda facts: (stack not in facts.stacks, parted(facts.slot)[1]),
    )  # fmt: skip
    return first.slot if first is not None else ""


def _name(facts: SlotFacts, rung: int, known: frozenset[str]) -> str:
    """An id that is still free; empty when it was tried often enough."""
    names = (f"{facts.deployment}.rung-{rung}.{number}" for number in count(1))
    for _, name in zip(range(MOST_TRIES), names, strict=False):
        if name not in known:
            return name
    return ""
