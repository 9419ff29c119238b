"""Taking telemetry in: many batches of many devices in a handful of statements.

What is known of an outbox (up to where it is acknowledged, which batches are there) is read for
all of them at once, each batch is decided on in Python, and what is new is written at once.
CROSS JOIN is how SQLite is told to go through what was asked for, and not through the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from controller.domain.telemetry import is_reading
from controller.store.base import contiguous
from fitment.core.telemetry import Ack, TelemetryBatch

_READ_OUTBOXES = (
    "WITH asked AS (SELECT value ->> 0 AS device, value ->> 1 AS outbox FROM json_each(?))"
    " SELECT o.device, o.outbox, o.acked, o.forgotten FROM asked CROSS JOIN outbox AS o"
    " ON o.tenant = ? AND o.device = asked.device AND o.outbox = asked.outbox"
)
_READ_BATCHES = (
    "WITH asked AS (SELECT value ->> 0 AS device, value ->> 1 AS outbox, value ->> 2 AS above"
    " FROM json_each(?))"
    " SELECT b.device, b.outbox, b.sequence FROM asked CROSS JOIN batch AS b"
    " ON b.tenant = ? AND b.device = asked.device AND b.outbox = asked.outbox"
    " AND b.sequence > asked.above"
)
_INSERT_BATCHES = (
    "INSERT INTO batch (id, tenant, device, outbox, sequence, rows, boot_id, tags, newest_s,"
    " rolled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_SAMPLES = (
    "INSERT INTO sample (batch, tenant, device, quantity, wall_s, value) VALUES (?, ?, ?, ?, ?, ?)"
)
_PUT_OUTBOXES = (
    "INSERT INTO outbox (tenant, device, outbox, acked, forgotten) VALUES (?, ?, ?, ?, -1)"
    " ON CONFLICT (tenant, device, outbox) DO UPDATE SET acked = excluded.acked"
)
_EMPTY = "tenant = ? AND device = ? AND outbox = ? AND rows = 0 AND sequence <= ?"
_LAST_EMPTY = f"SELECT max(sequence) FROM batch WHERE {_EMPTY}"  # noqa: S608 - nothing from outside
_DELETE_EMPTY = f"DELETE FROM batch WHERE {_EMPTY}"  # noqa: S608 - the same
_FORGET = (
    "UPDATE outbox SET forgotten = max(forgotten, ?) WHERE tenant = ? AND device = ? AND outbox = ?"
)
_ADD_TALLY = (
    "INSERT INTO tally (tenant, name, value) VALUES (?, ?, ?)"
    " ON CONFLICT (tenant, name) DO UPDATE SET value = value + excluded.value"
)
_Key = tuple[str, str]  # device, outbox


@dataclass(slots=True, kw_only=True)
class _Outbox:
    """What is known of one outbox, and what becomes of it."""

    acked: int = -1
    forgotten: int = -1
    known: set[int] = field(default_factory=set)  # batches above what was acknowledged, and asked
    moved: bool = False
    settles: bool = False  # batches without rows may be covered now

    def take(self, batch: TelemetryBatch) -> bool:
        """Whether a batch is new; the outbox is as after it."""
        new = batch.sequence > self.forgotten and batch.sequence not in self.known
        if new:
            self.known.add(batch.sequence)
        acked = contiguous(self.known, max(batch.first_available, self.acked + 1))
        self.moved |= acked > self.acked
        self.settles |= acked > self.acked + 1 or not batch.wall_unix_ns
        self.acked = acked
        return new


def ingest(
    connection: Connection, tenant: str, batches: Sequence[tuple[str, TelemetryBatch]]
) -> tuple[Ack, ...]:
    """Store what is not there yet; an ack for each batch.

    Raises:
        ValueError: a batch has columns of different lengths; nothing is stored.
    """
    for _, batch in batches:
        if any(len(c.values) != len(batch.wall_unix_ns) for c in batch.columns.values()):
            raise ValueError("a telemetry batch has columns of different lengths")
    outboxes = _read(connection, tenant, batches)
    new = [(d, b) for d, b in batches if outboxes[d, b.outbox].take(b)]
    _write(connection, tenant, new)
    moved = [(tenant, *key, o.acked) for key, o in outboxes.items() if o.moved]
    if moved:
        connection.exec_driver_sql(_PUT_OUTBOXES, moved)
    for key, outbox in outboxes.items():
        if outbox.settles:
            _drop_empty(connection, tenant, key, outbox.acked)
    return tuple(Ack(outbox=b.outbox, sequence=outboxes[d, b.outbox].acked) for d, b in batches)


def tally(connection: Connection, tenant: str, more: dict[str, int]) -> None:
    """Add to numbers that would take long to count."""
    connection.exec_driver_sql(_ADD_TALLY, [(tenant, name, value) for name, value in more.items()])


def _read(
    connection: Connection, tenant: str, batches: Sequence[tuple[str, TelemetryBatch]]
) -> dict[_Key, _Outbox]:
    lowest: dict[_Key, int] = {}
    for device, batch in batches:
        key = (device, batch.outbox)
        lowest[key] = min(batch.sequence, lowest.get(key, batch.sequence))
    found = {key: _Outbox() for key in lowest}
    asked = json.dumps(list(found))
    for device, name, acked, forgotten in connection.exec_driver_sql(
        _READ_OUTBOXES, (asked, tenant)
    ):
        outbox = found[device, name]
        outbox.acked, outbox.forgotten = int(acked), int(forgotten)
    asked = json.dumps([(*key, min(found[key].acked, lowest[key] - 1)) for key in found])
    for device, name, sequence in connection.exec_driver_sql(_READ_BATCHES, (asked, tenant)):
        found[device, name].known.add(int(sequence))
    return found


def _write(
    connection: Connection, tenant: str, batches: Sequence[tuple[str, TelemetryBatch]]
) -> None:
    if not batches:
        return
    last = connection.exec_driver_sql("SELECT max(id) FROM batch").scalar() or 0
    heads, samples, count = [], [], 0
    for number, (device, batch) in enumerate(batches, last + 1):
        walls = batch.wall_unix_ns
        count += len(walls)
        heads.append(
            (number, tenant, device, batch.outbox, batch.sequence, len(walls), batch.boot_id,
             json.dumps(dict(batch.tags)), max(walls, default=0) / 1e9, int(not walls))
        )  # fmt: skip
        samples += [
            (number, tenant, device, name, wall / 1e9, value if is_reading(value) else None)
            for name, column in batch.columns.items()
            for wall, value in zip(walls, column.values, strict=True)
        ]
    connection.exec_driver_sql(_INSERT_BATCHES, heads)
    if samples:
        connection.exec_driver_sql(_INSERT_SAMPLES, samples)
    tally(connection, tenant, {"rows": count, "rows_ever": count})


def _drop_empty(connection: Connection, tenant: str, key: _Key, acked: int) -> None:
    """Batches without rows are known by a number alone, once all before them are settled."""
    empty = (tenant, *key, acked)
    last = connection.exec_driver_sql(_LAST_EMPTY, empty).scalar()
    if last is not None:
        connection.exec_driver_sql(_DELETE_EMPTY, empty)
        connection.exec_driver_sql(_FORGET, (last, tenant, *key))
