"""Groups of devices: named expressions, looked at anew each time that somebody asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from controller.domain import contradiction, fleet, selection
from controller.domain.belonging import DeviceGroup
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile.context import Context

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def create(context: Context, name: str, where: str) -> DeviceGroup:
    """Keep an expression under a name.

    Raises:
        UserError: the name or the expression cannot be used.
        Conflict: there is a group of that name.
    """
    if not _NAME.match(name):
        raise UserError(f"'{name}' cannot be a group's name (use A-Z a-z 0-9 _ . -, at most 64)")
    if context.store.groups.get(name) is not None:
        raise Conflict(
            f"there is a group '{name}'; change it: fitment group change {name} EXPRESSION"
        )
    made = DeviceGroup(name=name, where=checked(context, where), created_at=context.clock())
    with context.store.transaction():
        context.store.groups.add(made)
        context.record("operator", "group_created", name, {"where": made.where})
    return made


def change(context: Context, name: str, where: str) -> DeviceGroup:
    """Give a group another expression; rollouts that were made for it keep the one they have.

    Raises:
        NotFound: there is no such group.
        UserError: the expression cannot be used.
    """
    known = get(context, name)
    changed = replace(known, where=checked(context, where), changed_at=context.clock())
    with context.store.transaction():
        context.store.groups.put(changed)
        details = {"before": known.where, "where": changed.where}
        context.record("operator", "group_changed", name, details)
    return changed


def delete(context: Context, name: str) -> DeviceGroup:
    """Forget a group; its devices and rollouts are as they were.

    Raises:
        NotFound: there is no such group.
    """
    known = get(context, name)
    with context.store.transaction():
        context.store.groups.delete(name)
        context.record("operator", "group_deleted", name, {"where": known.where})
    return known


def get(context: Context, name: str) -> DeviceGroup:
    """A group by name.

    Raises:
        NotFound: there is none.
    """
    found = context.store.groups.get(name)
    if found is None:
        raise NotFound(f"no group is named '{name}'; see: fitment group list")
    return found


def members(context: Context, where: str) -> tuple[fleet.Device, ...]:
    """The devices that an expression takes now, in order of enrolment.

    Raises:
        UserError: it cannot be read.
    """
    part = selection.parse(selection.at(where, context.clock()))
    return tuple(d for d in context.store.devices.find(revoked=False) if part.holds(d))


def selection_of(context: Context, where: str, group: str) -> str:
    """The expression of a group and another one, as one that can be kept.

    What is said of so long ago is of now, and stays so.

    Raises:
        NotFound: there is no such group.
        UserError: they cannot be read, or exclude each other.
    """
    texts = [get(context, group).where] if group else []
    whole = checked(context, selection.joined(*texts, where), empty=True)
    return selection.at(whole, context.clock())


def checked(context: Context, where: str, *, empty: bool = False) -> str:
    """An expression that can be read and may hold of a device.

    Raises:
        UserError: saying what is wrong with it.
    """
    if not where.strip() and not empty:
        raise UserError(f"a group needs an expression, for example: {selection.EXAMPLE}")
    wrong = contradiction.found(selection.parse(selection.at(where, context.clock())))
    if wrong:
        raise UserError(f"no device can ever match '{where}': {wrong}")
    return where.strip()


def why_nobody(context: Context, where: str) -> str:
    """Why an expression takes no device now, in words; empty: it takes some.

    Told beside an answer: tomorrow a device may match.
    """
    every: Sequence[fleet.Device] = context.store.devices.find(revoked=False)
    part = selection.parse(selection.at(where, context.clock()))
    if any(part.holds(device) for device in every):
        return ""
    if not every:
        return "no device matches now: none is enrolled yet"
    reasons: dict[str, int] = {}
    for device in every:
        why = part.why_not(device)
        reasons[why] = reasons.get(why, 0) + 1
    most = sorted(reasons.items(), key=lambda pair: -pair[1])[:3]
    words = "; ".join(f"{why} ({count} devices)" for why, count in most)
    return f"no device matches now: {words}"
