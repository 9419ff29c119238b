"""What only the database can break: restarts, versions, tenants, pragmas."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, inspect
from sqlmodel import SQLModel

from controller.domain import fleet
from controller.errors import UserError
from controller.store import migrations, open_store
from controller.store.base import INDEXED
from controller.store.sql import SqlStore
from controller.store.tables import ROWS, Row
from fitment.core.telemetry import Column, TelemetryBatch


def test_a_closed_store_opens_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    first = SqlStore(path, "default")
    first.devices.add(fleet.Device(name="a"))
    first.close()
    second = SqlStore(path, "default")
    assert second.devices.get("a") == fleet.Device(name="a")
    second.close()


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    ours, theirs = SqlStore(path, "ours"), SqlStore(path, "theirs")
    ours.devices.add(fleet.Device(name="a"))
    ours.set_setting("k", "1")
    theirs.devices.add(fleet.Device(name="a", profile="x"))
    assert theirs.setting("k") is None
    assert ours.devices.find(profile="x") == ()
    ours.close()
    theirs.close()


def test_a_newer_schema_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    SqlStore(path, "default").close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE setting SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(UserError, match=r"schema 99.*upgrade Fitment"):
        SqlStore(path, "default")


def test_an_older_database_takes_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    SqlStore(path, "default").close()
    taken: list[str] = []

    def two(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE device ADD COLUMN site TEXT DEFAULT ''")
        taken.append("two")

    def three(_connection: Connection) -> None:
        taken.append("three")
        if len(taken) == 2:
            raise RuntimeError("killed here")

    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(RuntimeError):
        migrations.migrate(engine, "f.db", (two, three))
    assert migrations.version_of(engine) == 2
    assert migrations.migrate(engine, "f.db", (two, three)) == 3
    assert taken == ["two", "three", "three"]
    engine.dispose()


class Killed(BaseException):
    """Not an error that any code of ours may catch."""


@pytest.mark.parametrize("number", range(1, 40))
def test_a_database_whose_making_was_killed_is_made_anew(tmp_path: Path, number: int) -> None:
    """Before each statement that makes a part of it, and once after the last."""
    path = tmp_path / "f.db"
    engine = create_engine(f"sqlite:///{path}")
    made = itertools.count(1)

    def dying(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.strip().startswith(("CREATE", "INSERT")) and next(made) == number:
            raise Killed

    event.listen(engine, "before_cursor_execute", dying)
    with contextlib.suppress(Killed):
        migrations.migrate(engine, "f.db")
    engine.dispose()
    store = SqlStore(path, "default")
    found = inspect(store._engine)
    indexes = {table: len(found.get_indexes(table)) for table in found.get_table_names()}
    assert indexes == {name: len(t.indexes) for name, t in SQLModel.metadata.tables.items()}
    assert migrations.version_of(store._engine) == 1
    store.close()


def test_a_step_that_was_killed_is_taken_whole(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'f.db'}")
    migrations.migrate(engine, "f.db")

    def half(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE device ADD COLUMN site TEXT DEFAULT ''")
        raise Killed

    def whole(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE device ADD COLUMN site TEXT DEFAULT ''")

    with pytest.raises(Killed):
        migrations.migrate(engine, "f.db", (half,))
    assert migrations.migrate(engine, "f.db", (whole,)) == 2
    engine.dispose()


def test_the_disk_is_written_before_an_answer(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "f.db", "default")
    with store._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    store.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_what_no_sensor_said_is_null_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "f.db"
    store = SqlStore(path, "default")
    batch = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(1,),
        wall_unix_ns=(1,), columns={"energy_mj": Column(values=(float("nan"),))},
    )  # fmt: skip
    store.telemetry.ingest("d", batch)
    store.close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT quantity, value FROM sample").fetchall() == [("energy_mj", None)]


def test_every_indexed_field_is_a_column() -> None:
    assert set(ROWS) == set(INDEXED)
    for kind, row in ROWS.items():
        assert set(row.model_fields) - set(Row.model_fields) == set(INDEXED[kind])


@pytest.mark.parametrize("url", ["postgres://x", "sqlite:///", "f.db"])
def test_an_unknown_address_says_what_there_is(url: str) -> None:
    with pytest.raises(UserError, match="sqlite:///PATH"):
        open_store(url, "default")
