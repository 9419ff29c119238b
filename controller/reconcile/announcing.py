"""What operators say of stacks that are to come: announce one, look at it, take it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.domain import fleet, stacks
from controller.domain.stacks import DeviceStanding, StackAnnouncement, StackState
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import rolling
from controller.reconcile.context import Context
from controller.reconcile.standings import picture

_OPEN_ROLLOUTS = (
    fleet.RolloutState.AWAITING_APPROVAL, fleet.RolloutState.RUNNING, fleet.RolloutState.PAUSED,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What an operator asks for."""

    name: str
    profile: str = ""  # empty: that of the device
    device: str = ""  # that has the stack already
    runtimes: Sequence[str] = ()  # "onnxruntime=1.25.0", to know it by
    facts: Mapping[str, str] = field(default_factory=dict)  # the same, as stack facts
    slots: Sequence[str] = ()  # empty: all that devices of the profile run


def announce(context: Context, asked: Announced) -> StackAnnouncement:
    """Begin to prepare for a stack.

    Raises:
        NotFound: there is no such device or profile.
        UserError: it cannot be known, or the device has what the others have today.
        Conflict: one of this name is open.
    """
    if not asked.name.strip():
        raise UserError("name the stack, such as jetpack-7.1: fitment stack announce NAME …")
    if any(not s.closed_at for s in context.store.stacks.find(name=asked.name)):
        raise Conflict(
            f"a stack '{asked.name}' is announced already; see: fitment stack show {asked.name}"
        )
    facts = {**stacks.runtime_facts(asked.runtimes), **asked.facts}
    if not asked.device and not facts:
        raise UserError(
            "say how to know it: --device NAME of one that has it already, or what it will bring:"
            " --runtime onnxruntime=1.25.0"
        )
    now = StackAnnouncement(
        id=context.new_id(), name=asked.name, profile=_profile(context, asked),
        created_at=context.clock(), device=asked.device, facts=facts, wanted=tuple(asked.slots),
    )  # fmt: skip
    _check_device(context, now)
    with context.store.transaction():
        context.store.stacks.add(now)
        details = {"stack": now.name, "profile": now.profile, "device": now.device, **facts}
        context.record("operator", "stack_announced", now.id, details)
    return now


def _profile(context: Context, asked: Announced) -> str:
    """The profile that was named, or the device's."""
    device = context.store.devices.get(asked.device) if asked.device else None
    if asked.device and (device is None or device.revoked):
        raise NotFound(f"no device '{asked.device}'; see: fitment device list")
    if device is not None and device.cohort is None:
        raise UserError(f"'{asked.device}' has not reported what it is yet: run its agent first")
    own = device.profile if device is not None else ""
    profile = asked.profile or own
    if not profile:
        raise UserError("name the profile it is for: --profile; see: fitment profile list")
    if profile not in {known.name for known in context.profiles}:
        raise NotFound(f"no profile '{profile}'; see: fitment profile list")
    if own and own != profile:
        raise UserError(f"'{asked.device}' is of profile {own}, not of {profile}")
    return profile


def _check_device(context: Context, now: StackAnnouncement) -> None:
    """A device that has what all the others have tells nothing of what is to come."""
    device = context.store.devices.get(now.device) if now.device else None
    if device is None or device.reported is None:
        return
    if now.facts and not stacks.matches(now.facts, device):
        has = device.reported.fingerprint.stack.facts
        shown = ", ".join(f"{name} {has.get(name, 'absent')}" for name in sorted(now.facts))
        raise UserError(f"'{device.name}' does not have that stack: {shown}")
    stack = device.reported.fingerprint.stack.hash
    others = [
        d.reported.fingerprint.stack.hash
        for d in context.store.devices.find(profile=now.profile, revoked=False)
        if d.reported is not None and d.name != device.name
    ]
    if others and all(other == stack for other in others):
        raise UserError(
            f"'{device.name}' has the stack that all devices of {now.profile} have today: upgrade"
            " it first, or announce what it will bring: --runtime onnxruntime=1.25.0"
        )


def get(context: Context, name_or_id: str) -> StackAnnouncement:
    """An announcement by id, or the newest of a name.

    Raises:
        NotFound: there is none.
    """
    found = context.store.stacks.get(name_or_id)
    named = context.store.stacks.find(name=name_or_id)
    if found is None and not named:
        raise NotFound(f"no stack '{name_or_id}' is announced; see: fitment stack list")
    return found or named[-1]


def standings(context: Context, name_or_id: str) -> tuple[DeviceStanding, ...]:
    """Who is ready for it, who is not and why, and who has it."""
    return picture(context, get(context, name_or_id))


def withdraw(context: Context, name_or_id: str, reason: str) -> StackAnnouncement:
    """Take one back: no more is fitted, tried or sent for it. What devices hold stays there.

    Raises:
        NotFound: there is none.
        UserError: no reason is given.
        Conflict: it has ended.
    """
    now = get(context, name_or_id)
    if not reason.strip():
        raise UserError("say why, for whoever reads it later: fitment stack withdraw NAME REASON")
    if now.closed_at:
        raise Conflict(f"the stack has ended as {now.state.value}: {now.result}")
    with context.store.transaction():
        for part in now.parts.values():
            for key in (part.test_rollout, part.rollout):
                made = context.store.rollouts.get(key) if key else None
                if made is not None and made.state in _OPEN_ROLLOUTS:
                    rolling.cancel(context, key)
        ended = replace(
            now, state=StackState.WITHDRAWN, closed_at=context.clock(), result=reason.strip(),
            waits="",
        )  # fmt: skip
        context.store.stacks.put(ended)
        details = {"stack": now.name, "was": now.state.value, "reason": ended.result}
        context.record("operator", "stack_withdrawn", now.id, details)
    return ended
