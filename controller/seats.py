"""Who has the seat: the kernel's lock on a data directory, and the lease in its database.

The lock says at once that a process on this machine is there, and goes with it, however it ends.
The lease also holds between machines, and against a process that was stopped and goes on later.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from controller.config import Settings
from controller.domain.lease import Lease
from controller.errors import Conflict
from controller.reconcile import leasing
from controller.reconcile.leasing import Keeper
from controller.store import lease, open_store
from controller.store.sql import SqlStore

LOCK_NAME = "lock"
DATABASE_NAME = "fitment.db"
TENANT = "default"


class DirectoryLock:
    """The kernel's lock; it is let go of when this process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._file: IO[str] | None = None
        self._held = False

    def __enter__(self) -> Self:
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = (self._data_dir / LOCK_NAME).open("a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._file is not None:
            self._file.close()

    def take(self) -> bool:
        """Take it if nobody has it; says whether it is held now."""
        if self._file is not None and not self._held:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = True
        return self._held


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What `take` got."""

    lease: Lease
    began: float  # by `leasing.clock`
    lock: DirectoryLock


def take(settings: Settings, lock: DirectoryLock, stop: threading.Event) -> Seat | None:
    """Wait for the seat as `leasing.acquire` does; None when ``stop`` was set before.

    Raises:
        Conflict: another controller has it, and this one is no standby.
    """
    data_dir = settings.data_dir.resolve()
    if not lock.take() and not settings.standby:
        raise Conflict(
            f"another controller uses {settings.data_dir}; stop it, choose another --data-dir, or"
            " start this one with --standby"
        )
    path = data_dir / DATABASE_NAME
    if lease.is_new(path):
        open_store(f"sqlite:///{path}", TENANT).close()
    wanted = leasing.mine(settings.lease_s)
    got = leasing.acquire(path, wanted, standby=settings.standby, has_lock=lock.take, stop=stop)
    return None if got is None else Seat(lease=got[0], began=got[1], lock=lock)


@contextlib.contextmanager
def kept(store: SqlStore, seat: Seat) -> Iterator[Keeper]:
    """Act on a store by a lease; at the end it is given back, and the store closed."""
    keeper = Keeper(store, seat.lease, seat.began, has_lock=seat.lock.take)
    try:
        yield keeper
    finally:
        keeper.release()
        store.close()
