"""Announced stacks: what an operating system or runtime that is to come will run, found out before.

An operator announces a stack for a profile. A device that has it already (a lab's, or a canary)
stands in for all: a variant is fitted and timed on it, and tried out. Then releases carry both
variants, and a device that comes up on the new stack serves what was made for it, by itself.

`decide` is the whole way, as a table and a few rules; what is looked at comes from
`reconcile.stacking`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain.fleet import Cohort, Deployment, Device
from controller.errors import UserError
from fitment.core.deployment import UNDERSTANDS_STACKS, Outcome, SlotReport


class StackState(enum.Enum):
    """Where an announced stack stands."""

    ANNOUNCED = "announced"  # no device is known that has it
    FITTING = "fitting"  # variants are made for it, and timed on the device that has it
    TESTING = "testing"  # that device tries out what was chosen
    QUALIFIED = "qualified"  # it holds there; releases with both variants are made
    ROLLING_OUT = "rolling_out"  # devices fetch it beside what they run
    PREPARED = "prepared"  # whoever can holds both; the stack may come
    ARRIVED = "arrived"  # every device has the stack
    REFUSED = "refused"  # no variant keeps the budget there, or none holds in a trial
    WITHDRAWN = "withdrawn"  # an operator does not want it any more


OPENS: Mapping[StackState, frozenset[StackState]] = {
    StackState.ANNOUNCED: frozenset({StackState.FITTING, StackState.WITHDRAWN}),
    StackState.FITTING: frozenset(
        {StackState.TESTING, StackState.REFUSED, StackState.ANNOUNCED, StackState.WITHDRAWN}
    ),
    StackState.TESTING: frozenset(
        {StackState.QUALIFIED, StackState.REFUSED, StackState.ANNOUNCED, StackState.WITHDRAWN}
    ),
    StackState.QUALIFIED: frozenset({StackState.ROLLING_OUT, StackState.WITHDRAWN}),
    StackState.ROLLING_OUT: frozenset({StackState.PREPARED, StackState.WITHDRAWN}),
    StackState.PREPARED: frozenset(
        {StackState.ARRIVED, StackState.QUALIFIED, StackState.FITTING, StackState.WITHDRAWN}
    ),
    StackState.ARRIVED: frozenset(),
    StackState.REFUSED: frozenset(),
    StackState.WITHDRAWN: frozenset(),
}
"""Which state may follow which. From `PREPARED` back: devices came, or another model version."""

HELD = frozenset(
    {StackState.QUALIFIED, StackState.ROLLING_OUT, StackState.PREPARED, StackState.ARRIVED}
)
"""States in which its variants are known to be right."""
NEEDS_DEVICE = frozenset({StackState.FITTING, StackState.TESTING})

_NEXT: Mapping[StackState, StackState] = {
    StackState.FITTING: StackState.TESTING,
    StackState.TESTING: StackState.QUALIFIED,
    StackState.QUALIFIED: StackState.ROLLING_OUT,
    StackState.ROLLING_OUT: StackState.PREPARED,
}
"""What follows when all of a state's work is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPart:
    """One slot's way: what it will run on the announced stack."""

    model: str  # model version id
    job: str = ""
    chosen: str = ""  # variant digest
    name: str = ""  # of the variant, for people
    reason: str = ""  # why that one, or why none, with numbers
    test_release: str = ""
    test_rollout: str = ""
    tested: str = ""  # what the device saw that tried it out, with numbers
    coverage: float | None = None  # of heavy operators in integers, as it saw
    releases: tuple[str, ...] = ()  # that hold both, oldest first
    release: str = ""  # that of this round; empty: none is needed yet
    rollout: str = ""  # of it


@dataclass(frozen=True, slots=True, kw_only=True)
class StackAnnouncement:
    """A stack that is to come to the devices of a profile."""

    id: str
    name: str
    profile: str
    created_at: float
    device: str = ""  # that has it; empty: none is known yet
    facts: Mapping[str, str] = field(default_factory=dict)  # how to know it, as stack facts
    wanted: tuple[str, ...] = ()  # slots; empty: all that devices of the profile run
    hardware: str = ""  # hash, of the device that has it
    stack: str = ""  # hash
    stack_facts: Mapping[str, str] = field(default_factory=dict)  # all of that device's
    state: StackState = StackState.ANNOUNCED
    parts: Mapping[str, StackPart] = field(default_factory=dict)  # by slot
    waits: str = ""  # what it waits for, and how to go on; empty: nothing
    arrived: Mapping[str, float] = field(default_factory=dict)  # "device/slot" -> when first seen
    closed_at: float = 0.0
    result: str = ""

    @property
    def cohort(self) -> Cohort | None:
        """Of the devices that it was found out for; None while no device is known."""
        if not self.stack:
            return None
        return Cohort(profile=self.profile, hardware=self.hardware, stack=self.stack)


class Progress(enum.Enum):
    """How far a slot's work in the present state is."""

    OPEN = "open"  # it goes on
    DONE = "done"  # what follows may follow
    FAILED = "failed"  # there is no way on


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found of one slot."""

    progress: Progress = Progress.OPEN
    reason: str = ""  # with the numbers
    waits: str = ""


class Standing(enum.Enum):
    """Where one device stands."""

    NOT_READY = "not_ready"  # it does not hold what it will need
    READY = "ready"  # it holds both
    ARRIVED = "arrived"  # it has the stack


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStanding:
    """One device, beside the stack that is to come to it."""

    device: str
    standing: Standing
    reason: str  # a sentence for people
    concerned: bool = True  # the stack, as it was fitted for, may come to it
    unserved: tuple[str, ...] = ()  # slots that a release which holds both would serve
    other_model: str = ""  # version that it runs and nothing was fitted for


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The state that follows, and why."""

    state: StackState
    reason: str


def decide(
    now: StackAnnouncement, *, found: bool, parts: Mapping[str, Seen],
    devices: Sequence[DeviceStanding],
) -> Move | None:  # fmt: skip
    """The next state, or None: it stays where it is.

    Args:
        now: the announcement.
        found: a device is there that has the stack.
        parts: what was found of each slot in this state.
        devices: all that the stack is to come to.
    """
    if now.state in NEEDS_DEVICE and not found:
        return Move(state=StackState.ANNOUNCED, reason=f"{now.device} no longer has the stack")
    if now.state is StackState.ANNOUNCED:
        return _begun(now, parts) if found else None
    if now.state is StackState.PREPARED:
        return _after(devices)
    ended = all(seen.progress is not Progress.OPEN for seen in parts.values())
    if now.state not in _NEXT or not parts or not ended:
        return None
    words = "; ".join(f"{slot}: {seen.reason}" for slot, seen in sorted(parts.items()))
    if any(seen.progress is Progress.FAILED for seen in parts.values()):
        return Move(state=StackState.REFUSED, reason=words)
    return Move(state=_NEXT[now.state], reason=words)


def _begun(now: StackAnnouncement, parts: Mapping[str, Seen]) -> Move | None:
    if not parts:
        return None
    words = f"{now.device} has it; it will run {', '.join(sorted(parts))}"
    return Move(state=StackState.FITTING, reason=words)


def _after(devices: Sequence[DeviceStanding]) -> Move | None:
    """From a fleet that was prepared: it arrived, or not all of it was prepared after all."""
    due = [each for each in devices if each.concerned]
    if due and all(each.standing is Standing.ARRIVED for each in due):
        return Move(state=StackState.ARRIVED, reason=f"all {len(due)} devices have it")
    late = [each for each in due if each.standing is Standing.NOT_READY]
    newer = [each.device for each in late if each.other_model]
    if newer:
        words = f"another model version runs on {_named(newer)}"
        return Move(state=StackState.FITTING, reason=words)
    unserved = [each.device for each in late if each.unserved]
    if unserved:
        words = f"{_named(unserved)} came, or was given a release without it"
        return Move(state=StackState.QUALIFIED, reason=words)
    return None


_NAMED = 5


def _named(devices: Sequence[str]) -> str:
    more = f" and {len(devices) - _NAMED} more" if len(devices) > _NAMED else ""
    return ", ".join(devices[:_NAMED]) + more


def counts(devices: Sequence[DeviceStanding]) -> dict[str, str]:
    """How many stand where, as the audit log has it."""
    found = {each.value: 0 for each in Standing}
    for device in devices:
        found[device.standing.value] += 1
    return {name: str(number) for name, number in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent to a device of releases that hold both, by slot."""

    named: frozenset[str] = frozenset()  # slots for which a rollout of one names it
    last: Mapping[str, Deployment] = field(default_factory=dict)  # the newest of them


def standing(
    now: StackAnnouncement, device: Device, running: Mapping[str, str], sent: Sent
) -> DeviceStanding:
    """Where a device stands that runs something of what was announced.

    Args:
        now: the announcement.
        device: as it last reported.
        running: slot to the model version that runs there.
        sent: to it, of releases that hold both.
    """
    parts = [(slot, part) for slot, part in sorted(now.parts.items()) if slot in running]
    if device.cohort is not None and device.cohort == now.cohort:
        words = "; ".join(f"{slot}: {serves(device, slot, part)[1]}" for slot, part in parts)
        return DeviceStanding(device=device.name, standing=Standing.ARRIVED, reason=words)
    short = {slot: _lacks(now, device, slot, part, sent) for slot, part in parts}
    short = {slot: why for slot, why in short.items() if why}
    late = DeviceStanding(device=device.name, standing=Standing.NOT_READY, reason="")
    if device.cohort is None or device.cohort.hardware != now.hardware:
        words = f"its hardware is not {now.device or 'the same'}'s: announce the stack for it, too"
        return replace(late, reason=words, concerned=False)
    other = next((running[slot] for slot, part in parts if running[slot] != part.model), "")
    if other:
        words = f"it runs another model version than was fitted: {other}"
        return replace(late, reason=words, other_model=other)
    if not short:
        words = "it holds what it runs and what it will run"
        return replace(late, standing=Standing.READY, reason=words)
    may = _may_hold(device)
    return replace(
        late, reason="; ".join(f"{slot}: {why}" for slot, why in short.items()),
        unserved=tuple(slot for slot in short if may and slot not in sent.named),
    )  # fmt: skip


def _may_hold(device: Device) -> bool:
    said = device.reported.understands if device.reported is not None else ()
    return UNDERSTANDS_STACKS in said


def _lacks(now: StackAnnouncement, device: Device, slot: str, part: StackPart, sent: Sent) -> str:
    """What a slot of a device lacks for the stack; empty: nothing."""
    report = slot_of(device, slot)
    if report is None:
        return "it reports no such slot"
    if part.chosen and report.variant == part.chosen:
        return ""  # the same is right on both
    rung = next((r for r in report.ladder if now.stack in r.stacks), None)
    if rung is not None and rung.variant == part.chosen:
        return "" if rung.ready else f"it does not hold both: {rung.reason}"
    if not _may_hold(device):
        return "its agent is too old to hold a variant for another stack: bring it up to date"
    last = sent.last.get(slot)
    if last is None and slot in sent.named:
        return "the release that holds both waits for its turn, or for the device to come online"
    if last is None:
        return "its release carries no variant for the stack"
    if last.outcome is None:
        return f"the release that holds both is on its way: {last.held or last.state.value}"
    if last.outcome is not Outcome.COMMITTED:
        why = f": {last.reasons[-1]}" if last.reasons else ""
        return f"the release that holds both was not taken ({last.outcome.value}){why}"
    return "it runs another release by now, or has not said yet what it holds"


def slot_of(device: Device, slot: str) -> SlotReport | None:
    """What a device says of one of its slots."""
    slots = device.reported.slots if device.reported is not None else ()
    return next((report for report in slots if report.slot == slot), None)


def serves(device: Device, slot: str, part: StackPart) -> tuple[bool, str]:
    """Whether a device that has the stack holds what was made for it, by its own word."""
    report = slot_of(device, slot)
    if report is None or device.reported is None:
        return False, "it reports no such slot"
    stack = device.reported.fingerprint.stack.hash
    if report.variant == part.chosen:
        checked = report.checked_stack == stack and report.golden_ok is True and report.serving
        return checked, "what it ran is right on both" if checked else "it runs what is right here"
    for rung in report.ladder:
        if rung.variant == part.chosen and stack in rung.stacks:
            words = f"rung {rung.rung} ({rung.name})"
            return rung.ready, f"{words} serves" if rung.ready else f"{words}: {rung.reason}"
    return False, "it holds none for it"


_PACKAGES: Mapping[str, str] = {
    "onnxruntime": "onnx", "ai-edge-litert": "litert", "tflite-runtime": "litert",
}  # fmt: skip
_VERSION = re.compile(r"\d+\.\d+")
_EXAMPLE = "write NAME=VERSION, such as onnxruntime=1.25.0"


def runtime_facts(texts: Sequence[str]) -> dict[str, str]:
    """``onnxruntime=1.25.0`` as the stack fact it will be: ``runtime.onnx`` is ``1.25``.

    Patch levels are left out there, so they are here.

    Raises:
        UserError: it is no name and version.
    """
    found = {}
    for text in texts:
        name, _, version = (part.strip() for part in text.partition("="))
        number = _VERSION.match(version)
        if not name or number is None:
            raise UserError(f"'{text}' names no runtime and version: {_EXAMPLE}")
        found[f"runtime.{_PACKAGES.get(name, name)}"] = number.group()
    return found


def matches(facts: Mapping[str, str], device: Device) -> bool:
    """Whether a device's stack is the one that these facts describe."""
    if not facts or device.reported is None:
        return False
    has = device.reported.fingerprint.stack.facts
    return all(has.get(name) == value for name, value in facts.items())
