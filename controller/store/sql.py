"""The store on SQLModel and SQLite (write-ahead log, synced on every commit).

One writer: the controller's engine thread. Records go through SQLAlchemy Core statements on
the SQLModel tables; telemetry is written in batches of tuples, never row by row through the
ORM (30 times slower).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, event, func
from sqlmodel import SQLModel, col, create_engine, delete, insert, select, update

from controller.domain import fleet
from controller.errors import Conflict, UserError
from controller.store.base import INDEXED, KEYS
from controller.store.memory import check_filters, contiguous
from controller.store.tables import SCHEMA_VERSION, Batch, Record, Sample, Setting
from fitment.core import plain
from fitment.core.telemetry import Ack, TelemetryBatch

R = TypeVar("R")
_COLUMNS = ("first", "second", "third")
_VERSION_KEY = "schema_version"


class _Session:
    """The writer's connection and the transaction it is in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: Connection | None = None

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The open transaction, or one of its own."""
        if self._open is not None:
            yield self._open
            return
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside becomes durable together; inner ones join the outer."""
        if self._open is not None:
            yield
            return
        with self._engine.begin() as connection:
            self._open = connection
            try:
                yield
            finally:
                self._open = None


class SqlCollection(Generic[R]):
    """Records of one type in the record table."""

    def __init__(self, session: _Session, tenant: str, kind: type[R]) -> None:
        self._session = session
        self._kind = kind
        self._mine = (col(Record.tenant) == tenant, col(Record.collection) == kind.__name__)
        self._tenant = tenant

    def get(self, key: str) -> R | None:
        query = select(Record.document).where(*self._mine, col(Record.key) == key)
        with self._session.use() as connection:
            row = connection.execute(query).first()
        return None if row is None else self._read(row[0])

    def put(self, record: R) -> None:
        values = self._values(record)
        changed = (
            update(Record).where(*self._mine, col(Record.key) == values["key"]).values(**values)
        )
        with self._session.use() as connection:
            if connection.execute(changed).rowcount == 0:
                connection.execute(insert(Record).values(**values))

    def add(self, record: R) -> None:
        values = self._values(record)
        if self.get(str(values["key"])) is not None:
            raise Conflict(f"{self._kind.__name__} '{values['key']}' is there already")
        with self._session.use() as connection:
            connection.execute(insert(Record).values(**values))

    def find(self, **equal: object) -> tuple[R, ...]:
        check_filters(self._kind, equal)
        names = INDEXED[self._kind]
        wanted = [
            getattr(Record, _COLUMNS[names.index(name)]) == _text(value)
            for name, value in equal.items()
        ]
        query = select(Record.document).where(*self._mine, *wanted).order_by(col(Record.position))
        with self._session.use() as connection:
            return tuple(self._read(row[0]) for row in connection.execute(query))

    def delete(self, key: str) -> bool:
        with self._session.use() as connection:
            gone = connection.execute(delete(Record).where(*self._mine, col(Record.key) == key))
        return gone.rowcount > 0

    def _values(self, record: R) -> dict[str, Any]:
        indexed = [_text(getattr(record, name)) for name in INDEXED[self._kind]]
        columns = dict(zip(_COLUMNS, indexed, strict=False))
        return {
            "tenant": self._tenant,
            "collection": self._kind.__name__,
            "key": str(getattr(record, KEYS[self._kind])),
            "document": json.dumps(plain.to_plain(record)),
            **columns,
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
            col(Batch.tenant) == self._tenant,
            col(Batch.device) == device,
            col(Batch.outbox) == batch.outbox,
        )
        with self._session.use() as connection:
            known = select(Batch.sequence).where(
                *mine, col(Batch.sequence) >= batch.first_available
            )
            sequences = {int(row[0]) for row in connection.execute(known)}
            there = select(Batch.sequence).where(*mine, col(Batch.sequence) == batch.sequence)
            if connection.execute(there).first() is None:
                self._write(connection, device, batch)
                sequences.add(batch.sequence)
        return Ack(outbox=batch.outbox, sequence=contiguous(sequences, batch.first_available))

    def _write(self, connection: Connection, device: str, batch: TelemetryBatch) -> None:
        head = {
            "tenant": self._tenant, "device": device, "outbox": batch.outbox,
            "sequence": batch.sequence, "rows": len(batch.wall_unix_ns),
            "tags": json.dumps(dict(batch.tags)),
        }  # fmt: skip
        connection.execute(insert(Batch).values(**head))
        rows = [
            (self._tenant, device, name, wall / 1e9, value, batch.outbox, batch.sequence)
            for name, column in batch.columns.items()
            for wall, value in zip(batch.wall_unix_ns, column.values, strict=True)
            if not math.isnan(value)
        ]
        if rows:
            connection.exec_driver_sql(
                "INSERT INTO sample (tenant, device, quantity, wall_s, value, outbox, sequence)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def latest(self, device: str, column: str, limit: int) -> tuple[tuple[float, float], ...]:
        query = (
            select(Sample.wall_s, Sample.value)
            .where(Sample.tenant == self._tenant, Sample.device == device)
            .where(Sample.quantity == column)
            .order_by(col(Sample.wall_s).desc())
            .limit(limit)
        )
        with self._session.use() as connection:
            return tuple((float(wall), float(value)) for wall, value in connection.execute(query))

    def count(self, device: str) -> int:
        query = select(func.coalesce(func.sum(Batch.rows), 0)).where(
            col(Batch.tenant) == self._tenant, col(Batch.device) == device
        )
        with self._session.use() as connection:
            return int(connection.execute(query).scalar_one())


class SqlStore:
    """Everything the controller remembers for one tenant, in one SQLite file."""

    def __init__(self, path: Path, tenant: str = "default") -> None:
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
        self._migrate(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._session.transaction():
            yield

    def setting(self, key: str) -> str | None:
        query = select(Setting.value).where(
            col(Setting.tenant) == self.tenant, col(Setting.key) == key
        )
        with self._session.use() as connection:
            row = connection.execute(query).first()
        return None if row is None else str(row[0])

    def set_setting(self, key: str, value: str) -> None:
        mine = (col(Setting.tenant) == self.tenant, col(Setting.key) == key)
        with self._session.use() as connection:
            if connection.execute(update(Setting).where(*mine).values(value=value)).rowcount == 0:
                row = {"tenant": self.tenant, "key": key, "value": value}
                connection.execute(insert(Setting).values(**row))

    def close(self) -> None:
        self._engine.dispose()

    def _migrate(self, path: Path) -> None:
        names = ("record", "setting", "batch", "sample")
        tables = [SQLModel.metadata.tables[name] for name in names]
        SQLModel.metadata.create_all(self._engine, tables=tables)
        with self._engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE UNIQUE INDEX IF NOT EXISTS record_key ON record (tenant, collection, key)"
            )
        version = int(self.setting(_VERSION_KEY) or SCHEMA_VERSION)
        if version > SCHEMA_VERSION:
            self.close()
            raise UserError(
                f"{path} was written by a newer Fitment (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): upgrade Fitment, or restore an older backup"
            )
        self.set_setting(_VERSION_KEY, str(SCHEMA_VERSION))


def _open(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _text(value: object) -> str:
    plain_value = plain.to_plain(value)
    return plain_value if isinstance(plain_value, str) else json.dumps(plain_value)
