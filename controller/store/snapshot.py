"""A copy of a database as it is at one moment, beside the controller that writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from controller.errors import UserError
from controller.store.migrations import STEPS, check_version

NEWEST = 1 + len(STEPS)
"""Schema that this Fitment knows."""
_PAGES = 1024  # a step; 4 MiB
_BUSY_S = 30.0


def copy(source: Path, target: Path, step: Callable[[int, int], None]) -> int:
    """Copy by SQLite's own means; returns the schema's version.

    The transaction that is held meanwhile keeps the moment: the writer goes on, and what it
    commits is not in the copy. ``step`` is told pages done and pages in all.

    Raises:
        UserError: it is no database of a controller, or damaged.
    """
    try:
        with (
            closing(sqlite3.connect(_uri(source, "ro"), uri=True, timeout=_BUSY_S)) as reader,
            closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            reader.execute("BEGIN")
            schema = _schema(reader)
            reader.backup(
                writer, pages=_PAGES, sleep=0, progress=lambda _, left, of: step(of - left, of)
            )
            reader.rollback()
            writer.execute("DELETE FROM setting WHERE tenant = '' AND key = 'lease'")  # not of it
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise UserError(f"the database {source} cannot be copied: {error}") from error
    check(target)
    return schema


def check(path: Path) -> int:
    """Read all of a database once; returns the schema's version.

    Raises:
        UserError: it is damaged, or of a newer Fitment.
    """
    try:
        with closing(sqlite3.connect(_uri(path, "ro"), uri=True, timeout=_BUSY_S)) as reader:
            (verdict,) = reader.execute("PRAGMA quick_check(1)").fetchone()
            schema = _schema(reader)
    except sqlite3.Error as error:
        raise UserError(f"{path} is no sound database: {error}") from error
    if verdict != "ok":
        raise UserError(f"the database {path} is damaged: {verdict}")
    return check_schema(schema)


def check_schema(schema: int) -> int:
    """Refuse a newer one.

    Raises:
        UserError: this Fitment cannot read it.
    """
    return check_version(schema, "it")


def _schema(reader: sqlite3.Connection) -> int:
    query = "SELECT value FROM setting WHERE tenant = '' AND key = 'schema_version'"
    row = reader.execute(query).fetchone()
    return int(row[0]) if row else 1


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"
