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
from controller.domain.telemetry import Query
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

    now, steps = 1 + len(migrations.STEPS), (*migrations.STEPS, two, three)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(RuntimeError):
        migrations.migrate(engine, "f.db", steps)
    assert migrations.version_of(engine) == now + 1
    assert migrations.migrate(engine, "f.db", steps) == now + 2
    assert taken == ["two", "three", "three"]
    engine.dispose()


class Killed(BaseException):
    """Not an error that any code of ours may catch."""


@pytest.mark.parametrize("number", range(1, 60))
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
    assert migrations.version_of(store._engine) == 1 + len(migrations.STEPS)
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
        migrations.migrate(engine, "f.db", (*migrations.STEPS, half))
    assert migrations.migrate(engine, "f.db", (*migrations.STEPS, whole)) == 2 + len(
        migrations.STEPS
    )
    engine.dispose()


SCHEMA_1 = Path(__file__).parents[3] / "fixtures" / "store" / "schema_1.sql"
"""What a controller wrote before there were rollups: two devices, five batches, one missing."""


def old_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(SCHEMA_1.read_text())
    return path


def shape(path: Path) -> dict[str, object]:
    """Tables with their columns, and indexes with theirs, in any order."""
    with closing(sqlite3.connect(path)) as raw:
        found: dict[str, object] = {}
        rows = raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        for kind, name, table, sql in rows:
            if kind == "table":
                columns = raw.execute(f"PRAGMA table_info('{name}')").fetchall()
                found[name] = {(c[1], c[2], c[3], c[5]) for c in columns}
            else:
                columns = raw.execute(f"PRAGMA index_info('{name}')").fetchall()
                found[name] = (table, [c[2] for c in columns], str(sql).partition(" WHERE ")[2])
    return found


def test_a_database_of_the_first_schema_opens_with_everything(tmp_path: Path) -> None:
    path = old_database(tmp_path / "f.db")
    store = SqlStore(path, "default")
    assert [d.profile for d in store.devices.find()] == ["pi5", "generic-x86_64"]
    assert store.setting("k") == "v"
    telemetry = store.telemetry
    assert (telemetry.count("edge-1"), telemetry.held().rows, telemetry.held().rows_ever) == (
        6, 10, 10,
    )  # fmt: skip
    again = TelemetryBatch(
        outbox="o-edge-2", sequence=3, first_available=1, boot_id="b", monotonic_ns=(1,),
        wall_unix_ns=(1,), columns={"temperature_c": Column(values=(1.0,))},
    )  # fmt: skip
    assert telemetry.ingest("edge-2", again).sequence == 1  # the second is still to come
    assert telemetry.roll_up("", 99) is None
    hours = telemetry.rollups(Query(quantity="temperature_c"))
    assert sorted((r.origin.device, r.origin.variant, r.count, r.total) for r in hours) == [
        ("edge-1", "sha256:v1", 3, 120.0), ("edge-2", "sha256:v1", 2, 80.0),
    ]  # fmt: skip
    store.close()
    SqlStore(tmp_path / "new.db", "default").close()
    assert shape(path) == shape(tmp_path / "new.db")


def test_a_migration_that_was_killed_begins_again(tmp_path: Path) -> None:
    path = old_database(tmp_path / "f.db")
    before = shape(path)

    def killed(connection: Connection) -> None:
        migrations.STEPS[0](connection)
        raise RuntimeError("killed here")

    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(RuntimeError):
        migrations.migrate(engine, "f.db", (killed,))
    engine.dispose()
    assert shape(path) == before
    SqlStore(path, "default").close()


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
