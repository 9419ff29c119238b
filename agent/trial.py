"""Who bears a variant on trial out: the slot's server and the applications that have it loaded.

Only who serves what the slot's own link leads to can be asked: while another rung stands, nobody
sees what is on trial.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from agent import applications, served
from agent.desk import Desk
from agent.domain.leases import Lease
from agent.domain.record import DeploymentRecord
from agent.domain.rungs import parted
from agent.domain.trial import ANSWER_S, Look, Told, judge, shadowed, unanswered
from agent.slots import FOLDERS


def server(desk: Desk, record: DeploymentRecord) -> Told | None:
    """What the slot's server says; None where there is none, or none that would see the trial."""
    path = _socket(desk, record)
    folder = desk.slots.folder(record.assignment.slot, record.folder)
    return None if path is None else served.told(path, os.path.realpath(folder))


def silent(desk: Desk, record: DeploymentRecord) -> Look:
    """What to make of a `server` that said nothing before the switch."""
    path, order = _socket(desk, record), record.assignment
    if path is None or not _there(desk, path):
        return Look()
    in_shadow_s = order.shadow.seconds if order.shadow is not None else 0.0
    waited_s = desk.now_s - record.state_entered_at_s - in_shadow_s
    return unanswered(parted(order.slot)[0], waited_s=waited_s)


def misfits(desk: Desk, record: DeploymentRecord) -> tuple[str, ...]:
    """Which applications could not feed the variant, before they are given it."""
    folder = desk.slots.folder(record.assignment.slot, record.folder)
    found = ((one.registered, applications.misfits(one.registered, folder))
             for one in _leases(desk, record))  # fmt: skip
    return tuple(f"application '{who.application}': {why}" for who, why in found if why)


def holder(desk: Desk, slot: str, letter: str) -> str:
    """The application that has a folder of a slot loaded, or is about to; empty: none."""
    if desk.applications is None:
        return ""
    return desk.applications.holder(desk.slots.folder(slot, letter))


def held_rungs(desk: Desk) -> frozenset[str]:
    """Slots of rungs with a folder that an application has loaded, or is about to."""
    if desk.applications is None or not desk.applications.any:
        return frozenset()
    names = (facts.slot for facts in desk.journal.slots() if parted(facts.slot)[1])
    return frozenset(name for name in names if any(holder(desk, name, x) for x in FOLDERS))


def shadow(desk: Desk, record: DeploymentRecord) -> Look:
    """Where the candidate stands that the order wants to see live inputs first."""
    path, order = _socket(desk, record), record.assignment
    if order.shadow is None or path is None:
        return Look()
    wanted, seen = order.bundle.variant, served.seen(path)
    found = shadowed(
        seen, order.shadow, wanted=wanted, there=_there(desk, path),
        waited_s=desk.now_s - record.state_entered_at_s,
    )  # fmt: skip
    if found.waits and seen is not None and seen.variant != wanted:
        applied = record.calibration is not None and record.calibration.applied
        overlay = desk.slots.overlay(order.slot, record.folder)
        folder = desk.slots.folder(order.slot, record.folder)
        served.shade(path, os.path.realpath(folder), str(overlay) if applied else "")
    return found


def end_shadow(desk: Desk, record: DeploymentRecord) -> None:
    """Take a candidate that does not stay out of the shadow, before its files go."""
    path = _socket(desk, record)
    if record.assignment.shadow is not None and path is not None:
        served.shade(path, "", "")


def look(desk: Desk, record: DeploymentRecord) -> Look:
    """Where the trial stands: over as soon as one finds it bad, and waiting while one does."""
    looks = [
        _at_server(desk, record),
        *(_at(desk, record, one) for one in _leases(desk, record)),
        *(_at(desk, record, one, gone=True) for one in _gone(desk, record)),
    ]
    bad = tuple(f"on trial: {why}" for one in looks for why in one.bad)
    waits = next((f"on trial: {one.waits}" for one in looks if one.waits), "")
    return Look(bad=bad, waits=waits)


def _at_server(desk: Desk, record: DeploymentRecord) -> Look:
    """What its server says of the trial.

    A server that answered before the switch and no longer does is waited for as well: a variant
    that ends its server must not be committed. One that did not answer then is not held against
    it, nor one that a restart in between has ended.
    """
    now, waited_s = server(desk, record), desk.now_s - record.state_entered_at_s
    gone = now is None and record.resumes > 0 and waited_s > desk.takeover_s
    if _socket(desk, record) is None or gone or (now is None and record.served is None):
        return Look()
    order = record.assignment
    return judge(
        f"the server of slot '{parted(order.slot)[0]}'", record.served, now,
        wanted=order.bundle.variant, gates=order.gates,
        waited_s=waited_s, limit_s=desk.takeover_s,
    )  # fmt: skip


def _at(desk: Desk, record: DeploymentRecord, lease: Lease, *, gone: bool = False) -> Look:
    """What one application says.

    One that ended with what is on trial, and gave no lease back, is waited for: a variant that
    ends its applications must not be committed.
    """
    order, (before, now) = record.assignment, lease.told()
    folder = str(desk.slots.folder(order.slot, record.folder))
    if now.variant == order.bundle.variant and lease.loaded.folder != folder:
        now = replace(now, variant="", refused="it has the same digest from the folder before")
    return judge(
        f"application '{lease.registered.application}'", before, None if gone else now,
        wanted=order.bundle.variant, gates=order.gates, limit_s=desk.takeover_s,
        waited_s=desk.now_s - max(record.state_entered_at_s, lease.since_s),
    )  # fmt: skip


def _leases(desk: Desk, record: DeploymentRecord) -> tuple[Lease, ...]:
    """Of applications that are given what is on trial."""
    name, rung = parted(record.assignment.slot)
    if desk.applications is None or desk.slots.rung(name) != rung:
        return ()
    return desk.applications.of(name)


def _gone(desk: Desk, record: DeploymentRecord) -> tuple[Lease, ...]:
    name, rung = parted(record.assignment.slot)
    if desk.applications is None or desk.slots.rung(name) != rung:
        return ()
    return desk.applications.gone(name)


def _there(desk: Desk, path: Path) -> bool:
    """Whether there is a server: between two of its lives its socket is gone for a moment."""
    seen_s = desk.servers.get(path.stem)
    return path.exists() or (seen_s is not None and desk.now_s - seen_s <= ANSWER_S)


def _socket(desk: Desk, record: DeploymentRecord) -> Path | None:
    name, rung = parted(record.assignment.slot)
    seen = desk.sockets is not None and desk.slots.rung(name) == rung
    return desk.sockets / f"{name}.sock" if desk.sockets is not None and seen else None
