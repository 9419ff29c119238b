"""The writer's one connection, and what a full disk is called."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from controller.errors import DiskFull

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""The second is what a write beyond a quota, or into the shared index, comes back as."""
_PRIMARY_CODE = 0xFF  # of an extended result code


class Session:
    """The writer's connection and the transaction it is in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: Connection | None = None
        self.before_commit: Callable[[Connection], None] = lambda _: None
        """May refuse what was written, by raising; called while the write lock is held."""

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Everything inside becomes durable together; inner ones join the outer."""
        if self._open is not None:
            yield self._open
            return
        with _room_for_it(), self._engine.begin() as connection:
            self._open = connection
            try:
                yield connection
                if _is_writing(connection):
                    self.before_commit(connection)
            finally:
                self._open = None


def _is_writing(connection: Connection) -> bool:
    """Whether anything was written: the driver begins a transaction with the first write."""
    driver = connection.connection.dbapi_connection
    return bool(getattr(driver, "in_transaction", True))


@contextmanager
def _room_for_it() -> Iterator[None]:
    """A full disk in our words; what was to be written is rolled back as one."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _NO_ROOM:
            raise
        raise DiskFull(
            f"the controller's disk takes no more ({error.orig}): make room in its data directory;"
            " nothing was changed, ask again then"
        ) from error
