"""Where the devices of a profile stand beside a stack that is to come to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.domain import fleet, plan, stacks
from controller.domain.stacks import DeviceStanding, Sent, StackAnnouncement
from controller.reconcile.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device of the profile, but the one that has the stack."""

    device: fleet.Device
    running: dict[str, fleet.Deployment]  # by slot
    models: dict[str, str]  # by slot: the model version
    every: tuple[fleet.Deployment, ...]  # all of its own


def members(context: Context, now: StackAnnouncement) -> list[Member]:
    """Devices of the profile that run something, by name."""
    found = []
    for device in context.store.devices.find(profile=now.profile, revoked=False):
        if device.name == now.device or device.reported is None:
            continue
        every = plan.own(device, context.store.deployments.find(device=device.name))
        running = plan.running(every)
        if running:
            releases = {s: context.store.releases.get(d.release) for s, d in running.items()}
            models = {s: r.model for s, r in releases.items() if r is not None}
            found.append(Member(device=device, running=running, models=models, every=every))
    return sorted(found, key=lambda member: member.device.name)


def picture(context: Context, now: StackAnnouncement) -> tuple[DeviceStanding, ...]:
    """Who is ready, who is not and why, and who has it already."""
    named = _named(context, now)
    return tuple(
        stacks.standing(now, m.device, m.models, _sent(now, m, named))
        for m in members(context, now)
        if set(m.models) & set(now.parts)
    )


def _named(context: Context, now: StackAnnouncement) -> dict[str, set[str]]:
    """By slot: the devices that rollouts of releases which hold both are for."""
    found: dict[str, set[str]] = {slot: set() for slot in now.parts}
    for slot, part in now.parts.items():
        for key in part.releases:
            release = context.store.releases.get(key)
            if release is not None and release.model == part.model:
                for made in context.store.rollouts.find(release=key):
                    found[slot].update(made.devices)
    return found


def _sent(now: StackAnnouncement, member: Member, named: dict[str, set[str]]) -> Sent:
    last: dict[str, Any] = {}
    for deployment in member.every:
        part = now.parts.get(deployment.slot)
        if part is not None and deployment.release in part.releases:
            last[deployment.slot] = deployment
    slots = frozenset(slot for slot, names in named.items() if member.device.name in names)
    return Sent(named=slots, last=last)
