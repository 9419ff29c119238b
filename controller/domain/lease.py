"""Who may act: a lease with a fencing number, as pure decisions.

Clocks of two machines are never compared. The holder counts from the moment before it wrote, by a
clock of its own; who waits counts from the moment at which it last saw something change, by a
clock of its own. So the holder has always stopped before anybody else begins, as long as the two
clocks run equally fast within `MARGIN`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MARGIN = 0.2
"""Share of the length at which the holder stops early: for clocks that differ in speed, and for
what it had begun."""
RENEWALS = 4
"""A holder renews so often within the length: some may fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The record that all who would act on one database share."""

    number: int  # rises with each holder: what a former one still writes is refused by it
    holder: str  # "host:pid", for people
    host: str
    length_s: float
    beat: int = 0  # rises with each renewal
    locked: bool = False  # the holder has the kernel's lock on the data directory, too
    released: bool = False  # the holder has ended in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What one who waits has seen, and since when it has not changed."""

    lease: Lease
    since: float  # seconds, by its own clock


def watched(before: Watch | None, seen: Lease, now: float) -> Watch:
    """Look once more."""
    unchanged = before is not None and before.lease == seen
    return before if unchanged and before is not None else Watch(lease=seen, since=now)


def is_free(watch: Watch, now: float) -> bool:
    """Whether one who waits may take it: it was given back, or its holder is silent for long."""
    return watch.lease.released or now - watch.since >= watch.lease.length_s


def is_abandoned(lease: Lease, *, host: str, has_lock: bool) -> bool:
    """Whether its holder is known to have ended without a word.

    A holder on this machine that had the kernel's lock would still have it.
    """
    return lease.released or (has_lock and lease.locked and lease.host == host)


def given_back(held: Lease) -> Lease:
    """The record that the holder has ended in order."""
    return replace(held, released=True)


def taken(before: Lease | None, by: Lease) -> Lease:
    """The record that says so."""
    return replace(by, number=before.number + 1 if before else 1, beat=0, released=False)


def renewed(held: Lease, *, locked: bool) -> Lease:
    """The record that the holder is there."""
    return replace(held, beat=held.beat + 1, locked=locked)


def is_due(held: Lease, written_at: float, now: float) -> bool:
    """Whether to renew."""
    return now - written_at >= held.length_s * (1 - MARGIN) / RENEWALS


def may_act(held: Lease, written_at: float, now: float) -> bool:
    """Whether the holder still may; ``written_at`` is from *before* it wrote, by its own clock."""
    return now - written_at < held.length_s * (1 - MARGIN)
