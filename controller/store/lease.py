"""The lease's row, before a store is open: read and taken without touching anything else.

The row is a setting of no tenant, as JSON, so that every schema has room for it. It is changed
only by comparing the whole of it: of two who would take it, one does.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from controller.domain.lease import Lease
from controller.errors import UserError
from fitment.core import plain

KEY = "lease"
_BUSY_S = 10.0


def encode(lease: Lease) -> str:
    """The row's text."""
    return json.dumps(plain.to_plain(lease), sort_keys=True)


def decode(text: str) -> Lease:
    """What the row's text says."""
    return plain.from_plain(Lease, json.loads(text))


def is_new(path: Path) -> bool:
    """Whether there is no database yet, or one whose making was cut short."""
    if not path.exists():
        return True
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'setting'"
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
            return not connection.execute(query).fetchone()[0]
    except sqlite3.Error as error:
        raise UserError(f"the database {path} cannot be read: {error}") from error


def read(path: Path) -> Lease | None:
    """Who has the database at ``path``; None: nobody ever had.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
            return _read(connection)
    except (sqlite3.Error, ValueError) as error:
        raise UserError(f"the lease in {path} cannot be read: {error}") from error


def swap(path: Path, before: Lease | None, after: Lease) -> bool:
    """Write ``after`` where ``before`` is; says if it was. Synced to the disk.

    Raises:
        UserError: the database cannot be written.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if _read(connection) != before:
                return False
            connection.execute(
                "INSERT INTO setting (tenant, key, value) VALUES ('', ?, ?)"
                " ON CONFLICT (tenant, key) DO UPDATE SET value = excluded.value",
                (KEY, encode(after)),
            )
            connection.execute("COMMIT")
    except (sqlite3.Error, ValueError) as error:
        raise UserError(f"the lease in {path} cannot be taken: {error}") from error
    return True


def _read(connection: sqlite3.Connection) -> Lease | None:
    row = connection.execute(
        "SELECT value FROM setting WHERE tenant = '' AND key = ?", (KEY,)
    ).fetchone()
    return decode(row[0]) if row else None
