"""Telemetry on SQLite: batches of tuples, never row by row through the ORM (30 times slower).

Rollups are added to where they are, in one statement a step: the database calls back for the one
thing that SQL cannot add up, the percentiles' buckets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, text
from sqlmodel import SQLModel, col, delete, select, update

from controller.domain.telemetry import (
    Held,
    Keep,
    Origin,
    Period,
    Query,
    Rollup,
    Sample,
    origin_of,
    rolled,
)
from controller.store import telemetry_export, telemetry_intake
from controller.store.session import Session
from controller.store.tables import (
    FORGETTABLE,
    NOT_ROLLED,
    BatchRow,
    RollupRow,
    SampleRow,
    TallyRow,
)
from fitment.core.telemetry import Ack, TelemetryBatch

_ADD_ROLLUPS = (
    "INSERT INTO rollup (tenant, period, start_s, quantity, device, profile, variant,"
    ' "release", count, least, most, total, sketch) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'
    ' ON CONFLICT (tenant, period, device, quantity, start_s, variant, "release", profile)'
    " DO UPDATE SET count = count + excluded.count, least = min(least, excluded.least),"
    " most = max(most, excluded.most), total = total + excluded.total,"
    " sketch = add_sketches(sketch, excluded.sketch)"
)
_PERIODS = {Keep.HOUR: Period.HOUR, Keep.DAY: Period.DAY}

_FORGET_BATCHES = (
    "DELETE FROM sample WHERE batch IN (SELECT value FROM json_each(?))",
    "UPDATE batch SET rows = 0 WHERE id IN (SELECT value FROM json_each(?))",
    (
        "UPDATE outbox SET forgotten = max(forgotten, found.last) FROM ("
        " SELECT b.tenant, b.device, b.outbox, max(b.sequence) AS last FROM batch AS b"
        " JOIN outbox AS o ON o.tenant = b.tenant AND o.device = b.device AND o.outbox = b.outbox"
        " WHERE b.id IN (SELECT value FROM json_each(?)) AND b.sequence <= o.acked GROUP BY 1, 2, 3"
        ") AS found WHERE outbox.tenant = found.tenant AND outbox.device = found.device"
        " AND outbox.outbox = found.outbox"
    ),
    (
        "DELETE FROM batch WHERE id IN (SELECT value FROM json_each(?)) AND sequence <= ("
        " SELECT acked FROM outbox WHERE outbox.tenant = batch.tenant"
        " AND outbox.device = batch.device AND outbox.outbox = batch.outbox)"
    ),
)
"""A batch goes as a whole where all before it is settled; else it stays, without rows."""
_BATCH: Any = SQLModel.metadata.tables["batch"].c
_ROLLUP: Any = SQLModel.metadata.tables["rollup"].c
_Key = tuple[str, int, Origin]  # quantity, start, whose


class SqlTelemetry:
    """Batches, samples, and what they were rolled up to."""

    def __init__(self, session: Session, tenant: str) -> None:
        self._session = session
        self._tenant = tenant

    def ingest(self, device: str, batch: TelemetryBatch) -> Ack:
        (ack,) = self.ingest_many(((device, batch),))
        return ack

    def ingest_many(self, batches: Sequence[tuple[str, TelemetryBatch]]) -> tuple[Ack, ...]:
        with self._session.transaction() as connection:
            return telemetry_intake.ingest(connection, self._tenant, batches)

    def latest(
        self, device: str, column: str, limit: int, since_s: float = 0.0
    ) -> tuple[tuple[float, float], ...]:
        query = (
            select(SampleRow.wall_s, SampleRow.value)
            .where(col(SampleRow.tenant) == self._tenant, col(SampleRow.device) == device)
            .where(col(SampleRow.quantity) == column, col(SampleRow.value).is_not(None))
            .where(col(SampleRow.wall_s) >= since_s)
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

    def roll_up(self, at: str, rows: int) -> str | None:
        query = (
            select(BatchRow.id, BatchRow.device, BatchRow.tags, BatchRow.rows)
            .where(text(NOT_ROLLED), col(BatchRow.tenant) == self._tenant)
            .where(col(BatchRow.device) >= at)
            .order_by(col(BatchRow.device), col(BatchRow.id))
            .limit(rows + 1)
        )
        with self._session.transaction() as connection:
            taken: dict[int, Origin] = {}
            done, reached = 0, None
            for number, device, tags, count in connection.execute(query):
                if done >= rows:
                    reached = str(device)
                    break
                taken[int(number or 0)] = origin_of(device, json.loads(tags))
                done += int(count)
            if taken:
                self._add(connection, taken)
        return reached

    def _add(self, connection: Connection, taken: dict[int, Origin]) -> None:
        samples = (
            select(SampleRow.batch, SampleRow.quantity, SampleRow.wall_s, SampleRow.value)
            .where(col(SampleRow.batch).in_(taken))
            .where(col(SampleRow.value).is_not(None))
        )
        values: dict[Period, dict[_Key, list[float]]] = {period: {} for period in Period}
        for number, quantity, wall_s, value in connection.execute(samples):
            origin = taken[number]
            for period, found in values.items():
                found.setdefault((quantity, period.start(wall_s), origin), []).append(float(value))
        for period, found in values.items():
            rollups = [rolled(*key, listed) for key, listed in found.items()]
            self._store(connection, period, rollups)
        done = update(BatchRow).where(col(BatchRow.id).in_(taken)).values(rolled=1)
        connection.execute(done)

    def _store(self, connection: Connection, period: Period, rollups: Sequence[Rollup]) -> None:
        if not rollups:
            return
        last = select(func.max(col(RollupRow.id)))
        before = connection.execute(last).scalar() or 0
        rows = [
            (
                self._tenant, period.value, rollup.start_s, rollup.quantity, rollup.origin.device,
                rollup.origin.profile, rollup.origin.variant, rollup.origin.release, rollup.count,
                rollup.least, rollup.most, rollup.total, _as_json(rollup.sketch),
            )
            for rollup in rollups
        ]  # fmt: skip
        connection.exec_driver_sql(_ADD_ROLLUPS, rows)
        # A row that was added to keeps its number, so what the numbers grew by is what is new.
        new = (connection.execute(last).scalar() or 0) - before
        self._tally(connection, {period.value: new})

    def forget(self, what: Keep, before_s: float, keep: int, limit: int) -> int:
        with self._session.transaction() as connection:
            if what is Keep.RAW:
                return self._forget_raw(connection, before_s, keep, limit)
            return self._forget_rollups(connection, _PERIODS[what], before_s, keep, limit)

    def _forget_raw(self, connection: Connection, before_s: float, keep: int, limit: int) -> int:
        excess = self._tallies(connection).get("rows", 0) - keep
        oldest = (
            select(_BATCH.id, _BATCH.rows, _BATCH.newest_s)
            .where(text(FORGETTABLE), col(BatchRow.tenant) == self._tenant)
            .order_by(col(BatchRow.newest_s))
            .limit(limit)
        )
        taken: list[int] = []
        gone = 0
        for number, rows, newest_s in connection.execute(oldest):
            if gone >= limit or (newest_s >= before_s and gone >= excess):
                break
            taken.append(int(number))
            gone += int(rows)
        if taken:
            for statement in _FORGET_BATCHES:
                connection.exec_driver_sql(statement, (json.dumps(taken),))
            self._tally(connection, {"rows": -gone})
        return gone

    def _forget_rollups(
        self, connection: Connection, period: Period, before_s: float, keep: int, limit: int
    ) -> int:
        excess = self._tallies(connection).get(period.value, 0) - keep
        oldest = (
            select(RollupRow.id, RollupRow.start_s)
            .where(col(RollupRow.tenant) == self._tenant, col(RollupRow.period) == period.value)
            .order_by(col(RollupRow.start_s))
            .limit(limit)
        )
        taken = [
            int(number or 0)
            for place, (number, start_s) in enumerate(connection.execute(oldest).all())
            if start_s < before_s or place < excess
        ]
        if taken:
            connection.execute(delete(RollupRow).where(col(RollupRow.id).in_(taken)))
            self._tally(connection, {period.value: -len(taken)})
        return len(taken)

    def rollups(self, query: Query) -> tuple[Rollup, ...]:
        table = _ROLLUP
        until = query.until_s if math.isfinite(query.until_s) else None
        conditions = [
            table.tenant == self._tenant, table.period == query.period.value,
            *_quantity(query), table.start_s >= query.since_s,
            *([] if until is None else [table.start_s < until]),
            *(table[name] == value for name, value in query.wanted.items()),
        ]  # fmt: skip
        with self._session.transaction() as connection:
            oldest = select(*table).where(*conditions).order_by(table.start_s).limit(query.limit)
            rows = connection.execute(oldest).mappings().all()
        return tuple(_read(row) for row in rows)

    def quantities(self, device: str) -> tuple[str, ...]:
        with self._session.transaction() as connection:
            return telemetry_export.quantities(connection, self._tenant, device)

    def next_sample_s(self, device: str, since_s: float) -> float | None:
        with self._session.transaction() as connection:
            return telemetry_export.next_sample_s(connection, self._tenant, device, since_s)

    def samples(self, device: str, since_s: float, until_s: float) -> tuple[Sample, ...]:
        with self._session.transaction() as connection:
            return telemetry_export.samples(connection, self._tenant, device, since_s, until_s)

    def held(self) -> Held:
        with self._session.transaction() as connection:
            found = self._tallies(connection)
        return Held(
            rows=found.get("rows", 0), rows_ever=found.get("rows_ever", 0),
            hours=found.get(Period.HOUR.value, 0), days=found.get(Period.DAY.value, 0),
        )  # fmt: skip

    def _tallies(self, connection: Connection) -> dict[str, int]:
        query = select(TallyRow.name, TallyRow.value).where(col(TallyRow.tenant) == self._tenant)
        return {str(name): int(value) for name, value in connection.execute(query)}

    def _tally(self, connection: Connection, more: dict[str, int]) -> None:
        telemetry_intake.tally(connection, self._tenant, more)


def add_functions(connection: Any) -> None:
    """Teach a connection what the statements here call."""
    connection.create_function("add_sketches", 2, _add_sketches, deterministic=True)


def _quantity(query: Query) -> tuple[Any, ...]:
    """A prefix as a range, which an index serves; no quantity has a character above these."""
    if not query.prefix:
        return (_ROLLUP.quantity == query.quantity,)
    return (_ROLLUP.quantity >= query.quantity, _ROLLUP.quantity < f"{query.quantity}\U0010ffff")


def _add_sketches(one: str, other: str) -> str:
    buckets: dict[str, int] = json.loads(one)
    for bucket, count in json.loads(other).items():
        buckets[bucket] = buckets.get(bucket, 0) + count
    return _as_json(buckets)


def _as_json(sketch: Any) -> str:
    return json.dumps(sketch, separators=(",", ":"))


def _read(row: Any) -> Rollup:
    names: Iterable[str] = ("device", "profile", "variant", "release")
    return Rollup(
        quantity=row["quantity"], start_s=row["start_s"],
        origin=Origin(**{name: row[name] for name in names}), count=row["count"],
        least=row["least"], most=row["most"], total=row["total"], sketch=json.loads(row["sketch"]),
    )  # fmt: skip
