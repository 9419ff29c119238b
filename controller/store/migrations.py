"""The schema's version, and the numbered steps from each to the next.

A new database is made as it is now. An older one takes each step once, and each step commits
together with its number, so that a controller killed half-way goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, inspect
from sqlmodel import SQLModel, col, insert, select, update

from controller.errors import UserError
from controller.store.tables import SettingRow

Step = Callable[[Connection], None]

STEPS: tuple[Step, ...] = ()
"""Step ``i`` leads from version ``i + 1`` to ``i + 2``; none is ever changed or removed."""

_KEY = "schema_version"
_MINE = (col(SettingRow.tenant) == "", col(SettingRow.key) == _KEY)


def migrate(engine: Engine, name: str, steps: Sequence[Step] = STEPS) -> int:
    """Bring the database up to date; returns its version.

    Raises:
        UserError: it was written by a newer Fitment.
    """
    newest = 1 + len(steps)
    if not inspect(engine).has_table("setting"):
        with _transaction(engine) as connection:
            SQLModel.metadata.create_all(connection)
            row = {"tenant": "", "key": _KEY, "value": str(newest)}
            connection.execute(insert(SettingRow).values(**row))
        return newest
    version = version_of(engine)
    if version > newest:
        raise UserError(
            f"{name} was written by a newer Fitment (schema {version}, this one knows {newest}):"
            " upgrade Fitment, or restore an older backup"
        )
    for number in range(version, newest):
        with _transaction(engine) as connection:
            steps[number - 1](connection)
            stamp = update(SettingRow).where(*_MINE).values(value=str(number + 1))
            connection.execute(stamp)
    return newest


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """One that holds table definitions too: the driver by itself begins none for them."""
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def version_of(engine: Engine) -> int:
    """The schema's version; one without a stamp was never finished and counts as the first."""
    with engine.connect() as connection:
        row = connection.execute(select(SettingRow.value).where(*_MINE)).first()
    return int(row[0]) if row else 1
