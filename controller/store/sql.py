"""The store on SQLModel and SQLite (write-ahead log, synced on every commit).

One writer: the controller's engine thread. Statements are SQLAlchemy Core on the SQLModel
tables; telemetry is written in batches of tuples, never row by row through the ORM (30 times
slower).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, event, func
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel, col, create_engine, delete, insert, select, update

from controller.domain import fleet
from controller.errors import Conflict, DiskFull, UserError
from controller.store.base import INDEXED, KEYS, check_filters, contiguous
from controller.store.migrations import migrate
from controller.store.tables import ROWS, BatchRow, SampleRow, SettingRow
from fitment.core import plain
from fitment.core.telemetry import Ack, TelemetryBatch

R = TypeVar("R")

_INSERT_SAMPLES = (
    "INSERT INTO sample (batch, tenant, device, quantity, wall_s, value) VALUES (?, ?, ?, ?, ?, ?)"
)

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""The second is what a write beyond a quota, or into the shared index, comes back as."""
_PRIMARY_CODE = 0xFF  # of an extended result code


class _Session:
    """The writer's connection and the transaction it is in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: Connection | None = None

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
            finally:
                self._open = None


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


class SqlCollection(Generic[R]):
    """Records of one type in their table."""

    def __init__(self, session: _Session, tenant: str, kind: type[R]) -> None:
        self._session = session
        self._tenant = tenant
        self._kind = kind
        self._table = SQLModel.metadata.tables[str(ROWS[kind].__tablename__)]
        self._mine = self._table.c.tenant == tenant

    def get(self, key: str) -> R | None:
        query = select(self._table.c.document).where(self._mine, self._table.c.key == key)
        with self._session.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else self._read(row[0])

    def put(self, record: R) -> None:
        values = self._values(record)
        same = (self._mine, self._table.c.key == values["key"])
        with self._session.transaction() as connection:
            changed = connection.execute(update(self._table).where(*same).values(**values))
            if changed.rowcount == 0:
                connection.execute(insert(self._table).values(**values))

    def add(self, record: R) -> None:
        values = self._values(record)
        with self._session.transaction() as connection:
            if self.get(str(values["key"])) is not None:
                raise Conflict(f"{self._kind.__name__} '{values['key']}' is there already")
            connection.execute(insert(self._table).values(**values))

    def find(self, **equal: object) -> tuple[R, ...]:
        check_filters(self._kind, equal)
        wanted = [self._table.c[name] == as_text(value) for name, value in equal.items()]
        query = select(self._table.c.document).where(self._mine, *wanted)
        with self._session.transaction() as connection:
            rows = connection.execute(query.order_by(self._table.c.position)).all()
        return tuple(self._read(row[0]) for row in rows)

    def delete(self, key: str) -> bool:
        gone = delete(self._table).where(self._mine, self._table.c.key == key)
        with self._session.transaction() as connection:
            return connection.execute(gone).rowcount > 0

    def _values(self, record: R) -> dict[str, str]:
        indexed = {name: as_text(getattr(record, name)) for name in INDEXED[self._kind]}
        return {
            "tenant": self._tenant,
            "key": str(getattr(record, KEYS[self._kind])),
            "document": json.dumps(plain.to_plain(record)),
            **indexed,
        }

    def _read(self, document: str) -> R:
        return plain.from_plain(self._kind, json.loads(document))


class SqlTelemetry:
    """Batches and samples."""

    def __init__(self, session: _Session, tenant: str) -> None:
        self._session = session
        self._tenant = tenant

    def ingest(self, device: str, batch: TelemetryBatch) -> Ack:
        mine = (
            col(BatchRow.tenant) == self._tenant,
            col(BatchRow.device) == device,
            col(BatchRow.outbox) == batch.outbox,
        )
        there = select(BatchRow.id).where(*mine, col(BatchRow.sequence) == batch.sequence)
        known = select(BatchRow.sequence).where(
            *mine, col(BatchRow.sequence) >= batch.first_available
        )
        with self._session.transaction() as connection:
            if connection.execute(there).first() is None:
                self._write(connection, device, batch)
            sequences = {int(row[0]) for row in connection.execute(known)}
        return Ack(outbox=batch.outbox, sequence=contiguous(sequences, batch.first_available))

    def _write(self, connection: Connection, device: str, batch: TelemetryBatch) -> None:
        head = {
            "tenant": self._tenant, "device": device, "outbox": batch.outbox,
            "sequence": batch.sequence, "rows": len(batch.wall_unix_ns),
            "boot_id": batch.boot_id, "tags": json.dumps(dict(batch.tags)),
        }  # fmt: skip
        made = connection.execute(insert(BatchRow).values(**head)).inserted_primary_key
        assert made is not None
        rows = [
            (made[0], self._tenant, device, name, wall / 1e9, _known(value))
            for name, column in batch.columns.items()
            for wall, value in zip(batch.wall_unix_ns, column.values, strict=True)
        ]
        if rows:
            connection.exec_driver_sql(_INSERT_SAMPLES, rows)

    def latest(self, device: str, column: str, limit: int) -> tuple[tuple[float, float], ...]:
        query = (
            select(SampleRow.wall_s, SampleRow.value)
            .where(col(SampleRow.tenant) == self._tenant, col(SampleRow.device) == device)
            .where(col(SampleRow.quantity) == column, col(SampleRow.value).is_not(None))
            .order_by(col(SampleRow.wall_s).desc(), col(SampleRow.value).desc())
            .limit(limit)
        )
        with self._session.transaction() as connection:
            rows = connection.execute(query).all()
        return tuple((float(wall), float(value or 0.0)) for wall, value in rows)

    def count(self, device: str) -> int:
        query = select(func.coalesce(func.sum(BatchRow.rows), 0)).where(
            col(BatchRow.tenant) == self._tenant, col(BatchRow.device) == device
        )
        with self._session.transaction() as connection:
            return int(connection.execute(query).scalar_one())


class SqlStore:
    """Everything the controller remembers for one tenant, in one SQLite file."""

    def __init__(self, path: Path, tenant: str) -> None:
        self.tenant = tenant
        self._engine = _open(path)
        session = self._session = _Session(self._engine)
        self.devices = SqlCollection(session, tenant, fleet.Device)
        self.tokens = SqlCollection(session, tenant, fleet.Token)
        self.models = SqlCollection(session, tenant, fleet.ModelVersion)
        self.jobs = SqlCollection(session, tenant, fleet.FitJob)
        self.studies = SqlCollection(session, tenant, fleet.StudyRecord)
        self.releases = SqlCollection(session, tenant, fleet.Release)
        self.rollouts = SqlCollection(session, tenant, fleet.Rollout)
        self.deployments = SqlCollection(session, tenant, fleet.Deployment)
        self.triggers = SqlCollection(session, tenant, fleet.Trigger)
        self.audit = SqlCollection(session, tenant, fleet.AuditEntry)
        self.telemetry = SqlTelemetry(session, tenant)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._session.transaction():
            yield

    def setting(self, key: str) -> str | None:
        query = select(SettingRow.value).where(*self._named(key))
        with self._session.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else str(row[0])

    def set_setting(self, key: str, value: str) -> None:
        changed = update(SettingRow).where(*self._named(key)).values(value=value)
        with self._session.transaction() as connection:
            if connection.execute(changed).rowcount == 0:
                row = {"tenant": self.tenant, "key": key, "value": value}
                connection.execute(insert(SettingRow).values(**row))

    def close(self) -> None:
        self._engine.dispose()

    def _named(self, key: str) -> tuple[Any, Any]:
        return (col(SettingRow.tenant) == self.tenant, col(SettingRow.key) == key)


def as_text(value: object) -> str:
    """How an indexed field is compared: text as it is, anything else as its JSON."""
    plain_value = plain.to_plain(value)
    return plain_value if isinstance(plain_value, str) else json.dumps(plain_value)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _open(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _set_pragmas)
    try:
        migrate(engine, str(path))
    except UserError:
        engine.dispose()
        raise
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
