"""The writer's one connection, and what a full disk is called."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from controller.errors import DiskFull

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""The second is what a write beyond a quota, or into the shared index, comes back as."""
_DIALECT: Any = sqlite.dialect(paramstyle="named")
_PRIMARY_CODE = 0xFF  # of an extended result code


class Statement:
    """A statement that is built once and run by the driver, many thousand times.

    To run one of a row SQLAlchemy takes some ten times as long as SQLite does.
    """

    def __init__(self, built: Any, *, sets: Sequence[str] | None = None) -> None:
        """``sets``: columns that an insert or update writes, by the names of its values."""
        compiled = built.compile(dialect=_DIALECT, column_keys=sets)
        self.text = str(compiled)
        self.fixed: dict[str, object] = dict(compiled.construct_params(_check=False))


class Session:
    """The writer's connection and the transaction it is in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: Connection | None = None
        self._driver: sqlite3.Connection | None = None
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
            self._driver = connection.connection.dbapi_connection  # type: ignore[assignment]
            try:
                yield connection
                if _is_writing(connection):
                    self.before_commit(connection)
            finally:
                self._open = self._driver = None

    def run(self, statement: Statement, values: Mapping[str, object]) -> sqlite3.Cursor:
        """Run a statement, in the transaction that is open.

        Raises:
            ValueError: none is.
        """
        if self._driver is None:
            raise ValueError("a statement needs a transaction around it")
        return self._driver.execute(statement.text, {**statement.fixed, **values})


def _is_writing(connection: Connection) -> bool:
    """Whether anything was written: the driver begins a transaction with the first write."""
    driver = connection.connection.dbapi_connection
    return bool(getattr(driver, "in_transaction", True))


@contextmanager
def _room_for_it() -> Iterator[None]:
    """A full disk in our words; what was to be written is rolled back as one."""
    try:
        yield
    except (OperationalError, sqlite3.OperationalError) as error:
        said = error.orig if isinstance(error, OperationalError) else error
        if getattr(said, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _NO_ROOM:
            raise
        raise DiskFull(
            f"the controller's disk takes no more ({said}): make room in its data directory;"
            " nothing was changed, ask again then"
        ) from error
