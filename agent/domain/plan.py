"""What to do next: the controller's wish against the device's own state.

Pure and level-triggered: `plan` looks at everything and names one next step, or none; after the
step it is asked again. Nothing here depends on a message arriving exactly once.

Orders are decoded but not believed: that they are the director's is found out by the verify
worker before anything is activated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from agent.domain import rungs, transitions
from agent.domain.record import DeploymentRecord, SlotFacts
from fitment.core import digest, plain
from fitment.core.deployment import (
    Assignment,
    BundleRef,
    DeploymentState,
    DesiredState,
    SignedPayload,
    Study,
)

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
QUARANTINE_AFTER: Final = 5
"""Failures in a row of one variant in one slot on one stack; then it is not tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """A desired state, decoded; ``problems`` holds a sentence for each order that makes none."""

    generation: int = 0
    assignments: tuple[tuple[SignedPayload, Assignment], ...] = ()
    studies: tuple[tuple[SignedPayload, Study], ...] = ()
    problems: tuple[str, ...] = ()

    def assigned(self, deployment: str) -> bool:
        """Whether this deployment is still wished for."""
        return any(order.deployment == deployment for _, order in self.assignments)

    def deployments(self) -> frozenset[str]:
        """Ids of all that are wished for."""
        return frozenset(order.deployment for _, order in self.assignments)

    def asked(self, study: str) -> bool:
        """Whether this study is still wished for."""
        return any(order.id == study for _, order in self.studies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision looks at."""

    orders: Orders | None  # None: the controller has not spoken yet
    stack: str  # stack hash now
    slots: tuple[SlotFacts, ...] = ()
    active: DeploymentRecord | None = None
    ended: tuple[DeploymentRecord, ...] = ()  # not yet acknowledged
    known: frozenset[str] = frozenset()  # ids of all deployments that ever ended here
    study: Study | None = None  # in progress
    studies_known: frozenset[str] = frozenset()  # done, failed, or waiting to be handed in
    quarantine: Mapping[str, int] = field(default_factory=dict)  # `quarantine_key` -> failures
    held: frozenset[str] = frozenset()  # rungs' slots that an application has loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """Answer the golden inputs of a slot again: the stack below it changed."""

    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """End the active deployment."""

    deployment: str
    superseded: bool  # by another assignment of its slot; otherwise the controller took it back
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveWay:
    """Put the deployment that waits for its window back among the orders: another is due now."""

    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """The controller knows how this deployment ended."""

    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Begin a deployment."""

    order: SignedPayload
    assignment: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """End a deployment before it begins."""

    order: SignedPayload
    assignment: Assignment
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """Fetch again what a slot holds: its files were damaged on the disk."""

    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Deploy a lesser variant of what a slot holds, so that it stands ready."""

    slot: str
    rung: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """Take a rung's slot away: the release that named it is gone."""

    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginStudy:
    """Begin a study."""

    order: SignedPayload
    study: Study


@dataclass(frozen=True, slots=True, kw_only=True)
class DropStudy:
    """Give up the study in progress: nobody asks for it any more."""

    study: str


Step = (
    Recheck | Interrupt | GiveWay | Acknowledge | Start | Refuse | Clear | Mend | Prepare
    | BeginStudy | DropStudy
)  # fmt: skip


def decode(desired: DesiredState) -> Orders:
    """Read the payloads of a desired state; what cannot be read is left out and named."""
    problems: list[str] = []
    assignments: list[tuple[SignedPayload, Assignment]] = []
    studies: list[tuple[SignedPayload, Study]] = []
    for signed in desired.assignments:
        assignment = _read(Assignment, signed, problems)
        if assignment is not None:
            assignments.append((signed, assignment))
    for signed in desired.studies:
        study = _read(Study, signed, problems)
        if study is not None:
            studies.append((signed, study))
    return Orders(
        generation=desired.generation,
        assignments=tuple(assignments),
        studies=tuple(studies),
        problems=tuple(problems),
    )


def plan(now: Situation) -> Step | None:
    """The next step, or None when there is nothing to do but to go on with what is active.

    What nobody asks for any more is taken away before anything is asked of it. Then a changed
    stack comes first, since what serves may serve wrongly; then what ends things, then what begins
    them, one at a time.
    """
    return (
        _clear(now)
        or _recheck(now)
        or _acknowledge(now)
        or _interrupt(now)
        or _give_way(now)
        or _drop_study(now)
        or _start(now)
        or _mend(now)
        or _prepare(now)
        or _begin_study(now)
    )


def quarantine_key(slot: str, variant: str, stack: str) -> str:
    """Under which failures of a variant are counted: another stack is another chance."""
    return f"{slot}/{variant}/{stack}"


def safe_name(name: str) -> bool:
    """Whether a slot's name or an id may become part of a path."""
    return _NAME.match(name) is not None


def well_formed(bundle: BundleRef) -> bool:
    """Whether its digests are digests: file names are made from them."""
    try:
        digest.hex_of(bundle.variant)
        digest.hex_of(bundle.archive)
    except ValueError:
        return False
    return bundle.archive_bytes > 0


def _read(kind: type[T], signed: SignedPayload, problems: list[str]) -> T | None:
    try:
        return plain.from_plain(kind, json.loads(signed.payload))
    except ValueError as error:
        problems.append(f"an order makes no sense to this agent: {error}")
        return None


def _recheck(now: Situation) -> Step | None:
    if not now.stack:
        return None
    slot = rungs.recheck(now.slots, now.stack)
    return Recheck(slot=slot) if slot else None


def _acknowledge(now: Situation) -> Step | None:
    for record in now.ended:
        if record.rung:  # the slot's ladder says what came of it
            return Acknowledge(deployment=record.id)
    if now.orders is None:
        return None
    for record in now.ended:
        spoke_since = now.orders.generation != record.ended_generation
        if spoke_since and not now.orders.assigned(record.id):
            return Acknowledge(deployment=record.id)
    return None


def _interrupt(now: Situation) -> Step | None:
    active = now.active
    if now.orders is None or active is None or active.state not in transitions.WORKING:
        return None
    if now.orders.assigned(active.id):
        return None
    slot = active.assignment.slot
    for _, order in now.orders.assignments:
        if active.mends and order.windows:
            continue  # what is damaged is mended first: the window may be days off
        if order.slot == slot and order.deployment not in now.known:
            reason = f"release {order.release} came before it had ended"
            return Interrupt(deployment=active.id, superseded=True, reason=reason)
    if active.mends or active.rung:  # nobody ordered it anew
        return None
    return Interrupt(
        deployment=active.id, superseded=False, reason="the controller no longer asks for it"
    )


def has_time(active: DeploymentRecord) -> bool:
    """Whether a deployment can be forgotten and begun anew: nothing was switched for it yet."""
    if active.mends:
        return False
    if active.rung:
        return active.state in transitions.WORKING and active.state is not DeploymentState.TRIAL
    return active.state is DeploymentState.WAITING or _may_be_passed(active)


def _may_be_passed(active: DeploymentRecord) -> bool:
    """Whether it waits for a link that an order may ask for, and has not."""
    return bool(active.held) and not active.assignment.metered


def _give_way(now: Situation) -> Step | None:
    """A window may be days off, and a rung has time. What is due, and damage, waits for neither."""
    active = now.active
    if now.orders is None or active is None or not has_time(active):
        return None  # without a controller nobody would repeat the order, nor send what is damaged
    startable = (o for _, o in _in_turn(now.orders) if o.deployment not in now.known)
    held = active.held and not active.rung  # what it waits for, others wait for as well
    urgent = any(not order.windows and (order.metered or not held) for order in startable)
    if urgent or any(facts.damaged for facts in now.slots):
        return GiveWay(deployment=active.id)
    return None


def _in_turn(orders: Orders | None) -> list[tuple[SignedPayload, Assignment]]:
    """Those that wait for no window first, of them those for metered links; else as they came."""
    listed = orders.assignments if orders is not None else ()
    return sorted(listed, key=lambda pair: (bool(pair[1].windows), not pair[1].metered))


def _drop_study(now: Situation) -> Step | None:
    if now.orders is None or now.study is None or now.orders.asked(now.study.id):
        return None
    return DropStudy(study=now.study.id)


def _start(now: Situation) -> Step | None:
    if now.orders is None or now.active is not None:
        return None
    for signed, assignment in _in_turn(now.orders):
        if assignment.deployment in now.known:
            continue
        if assignment.windows and any(facts.damaged for facts in now.slots):
            continue  # mended first: the window may be days off
        problem = _problem(assignment, now)
        if problem:
            return Refuse(order=signed, assignment=assignment, reason=problem)
        return Start(order=signed, assignment=assignment)
    return None


def _mend(now: Situation) -> Step | None:
    if now.active is not None:
        return None
    return next((Mend(slot=facts.slot) for facts in now.slots if facts.damaged), None)


def _clear(now: Situation) -> Step | None:
    free = tuple(facts for facts in now.slots if facts.slot not in now.held)
    surplus = rungs.surplus(free) if now.active is None else ""
    return Clear(slot=surplus) if surplus else None


def _prepare(now: Situation) -> Step | None:
    if now.active is not None:
        return None
    held = frozenset(
        key.removesuffix(f"/{now.stack}")
        for key, failures in now.quarantine.items()
        if failures >= QUARANTINE_AFTER and key.endswith(f"/{now.stack}")
    )
    found = rungs.missing(now.slots, now.known, held)
    return Prepare(slot=found[0], rung=found[1]) if found else None


def _problem(assignment: Assignment, now: Situation) -> str:
    if not safe_name(assignment.slot):
        return f"'{assignment.slot}' cannot name a slot (use A-Z a-z 0-9 . _ -, at most 64)"
    variant = assignment.bundle.variant
    if not well_formed(assignment.bundle):
        return "its bundle is not named by digests"
    if not all(well_formed(lesser.bundle) for lesser in assignment.ladder):
        return "a bundle of its ladder is not named by digests"
    failures = now.quarantine.get(quarantine_key(assignment.slot, variant, now.stack), 0)
    if failures >= QUARANTINE_AFTER:
        return (
            f"this variant failed {failures} times in a row on this stack and is in quarantine; "
            "another variant, or another stack, is tried"
        )
    return ""


def _begin_study(now: Situation) -> Step | None:
    busy = now.active is not None and now.active.state is not DeploymentState.WAITING
    if now.orders is None or now.study is not None or busy:
        return None
    for signed, study in now.orders.studies:
        usable = safe_name(study.id) and well_formed(study.bundle)
        if usable and study.id not in now.studies_known:
            return BeginStudy(order=signed, study=study)
    return None
