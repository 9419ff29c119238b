"""Holding the lease while a controller acts, and waiting for it before one does."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from controller.domain import lease as rules
from controller.domain.lease import Lease
from controller.errors import Conflict, LeaseLost
from controller.store import lease as row

log = logging.getLogger("controller.lease")

_POLLS = 8
"""How often one who waits looks within the lease's length."""


def clock() -> float:
    """Seconds that go on while the machine sleeps, where it can say so."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def mine(length_s: float) -> Lease:
    """What this process would write."""
    host = socket.gethostname()
    return Lease(number=0, holder=f"{host}:{os.getpid()}", host=host, length_s=length_s)


def acquire(
    path: Path, wanted: Lease, *, standby: bool, has_lock: Callable[[], bool],
    stop: threading.Event,
) -> tuple[Lease, float] | None:  # fmt: skip
    """Take the lease of the database at ``path``; returns it, and when it began to count.

    It waits until the lease is free, at most until its holder is seen to be there; a ``standby``
    waits longer. None when ``stop`` was set before.

    Raises:
        Conflict: another controller acts, and this one is no standby.
    """
    watch: rules.Watch | None = None
    while not stop.is_set():
        began, found = clock(), row.read(path)
        if watch is not None and watch.lease != found and not standby:
            raise Conflict(
                f"{watch.lease.holder} acts on {path}; stop it, or start this one with --standby:"
                f" it waits, and takes over {wanted.length_s:g} s after the other has fallen silent"
            )
        if watch is None and found is not None:
            log.info("action=lease_seen holder=%s number=%d", found.holder, found.number)
        watch = rules.watched(watch, found, began) if found is not None else None
        locked = has_lock()
        if _is_to_be_had(watch, wanted, locked=locked, now=began):
            taken = rules.renewed(rules.taken(found, wanted), locked=locked)
            if row.swap(path, found, taken):
                log.info("action=lease_taken number=%d holder=%s", taken.number, taken.holder)
                return taken, began
        else:
            stop.wait(watch.lease.length_s / _POLLS if watch is not None else 0.0)
    return None


def _is_to_be_had(
    watch: rules.Watch | None, wanted: Lease, *, locked: bool, now: float
) -> bool:  # fmt: skip
    if watch is None:
        return True
    abandoned = rules.is_abandoned(watch.lease, host=wanted.host, has_lock=locked)
    return abandoned or rules.is_free(watch, now)


class Fenced(Protocol):
    """A store that refuses what a former holder writes."""

    def fence(self, number: int) -> None: ...
    def swap_lease(self, before: Lease, after: Lease) -> bool: ...


class Keeper:
    """Keeps one lease. All but `must_act` and `lost` are called on the engine's thread."""

    def __init__(
        self, store: Fenced, held: Lease, written_at: float, *, has_lock: Callable[[], bool],
        clock: Callable[[], float] = clock,
    ) -> None:  # fmt: skip
        self._store = store
        self._held = held
        self._written_at = written_at
        self._has_lock = has_lock
        self._clock = clock
        self.lost = ""  # why; empty: it is not
        self._on_lost: Callable[[], None] = lambda: None
        store.fence(held.number)

    @property
    def held(self) -> Lease:
        """As it was last written."""
        return self._held

    def tell(self, on_lost: Callable[[], None]) -> None:
        """Call ``on_lost`` once the lease is lost; at once if it is."""
        self._on_lost = on_lost
        if self.lost:
            on_lost()

    def check(self) -> None:
        """Renew when it is time; outside of any transaction.

        Raises:
            LeaseLost: another controller has it; this one does nothing any more.
        """
        self._refuse()
        now = self._clock()
        if rules.is_due(self._held, self._written_at, now):
            self._renew(now)

    def must_act(self) -> None:
        """Before anything that reaches beyond the store.

        Raises:
            LeaseLost: too long ago was it renewed: somebody else may act already.
        """
        self._refuse()
        if not rules.may_act(self._held, self._written_at, self._clock()):
            raise LeaseLost("the lease was not renewed in time; nothing is done until it is")

    def release(self) -> None:
        """Give it back, so that a standby need not wait."""
        if not self.lost:
            self._store.swap_lease(self._held, rules.given_back(self._held))

    def _renew(self, began: float) -> None:
        after = rules.renewed(self._held, locked=self._has_lock())
        if not self._store.swap_lease(self._held, after):
            self.lost = (
                f"another controller acts in place of {self._held.holder} (lease"
                f" {self._held.number} was taken over); this one does nothing any more, and ends"
            )
            log.error("action=lease_lost number=%d", self._held.number)
            self._on_lost()
            self._refuse()
        self._held, self._written_at = after, began

    def _refuse(self) -> None:
        if self.lost:
            raise LeaseLost(self.lost)
