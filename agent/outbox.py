"""The outbox: telemetry that the controller does not have on its disk yet.

Batches are numbered without a gap for as long as the journal lives and deleted on an ack only.
When the outbox is full the oldest go, and ``first_available`` tells the controller so.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace

from agent.domain.patience import OUTBOX_LIMIT
from agent.journal import Journal
from fitment.core import plain
from fitment.core.telemetry import Ack, Column, TelemetryBatch


class Outbox:
    """Telemetry batches in the journal's file."""

    def __init__(self, journal: Journal, *, limit: int = OUTBOX_LIMIT) -> None:
        self._journal = journal
        self._limit = limit
        self.id = journal.setting("outbox")
        if not self.id:
            self.id = uuid.uuid4().hex  # a new journal is a new outbox: numbers begin again
            journal.save_setting("outbox", self.id)

    def append(
        self, *, boot_id: str, monotonic_ns: int, wall_unix_ns: int,
        columns: Mapping[str, float], tags: Mapping[str, str], limit: int | None = None,
    ) -> TelemetryBatch:  # fmt: skip
        """Keep one row as a batch, of all at most ``limit``. Returns it with its number."""
        most = self._limit if limit is None else min(limit, self._limit)
        with self._journal.transaction() as db:
            row = db.execute("SELECT value FROM settings WHERE name = 'sequence'").fetchone()
            sequence = int(row[0]) + 1 if row else 1
            batch = TelemetryBatch(
                outbox=self.id, sequence=sequence, first_available=0, boot_id=boot_id,
                monotonic_ns=(monotonic_ns,), wall_unix_ns=(wall_unix_ns,),
                columns={name: Column(values=(value,)) for name, value in columns.items()},
                tags=tags,
            )  # fmt: skip
            text = json.dumps(plain.to_plain(batch), separators=(",", ":"))
            db.execute("INSERT INTO outbox VALUES (?, ?)", (sequence, text))
            db.execute("INSERT OR REPLACE INTO settings VALUES ('sequence', ?)", (str(sequence),))
            db.execute("DELETE FROM outbox WHERE sequence <= ?", (sequence - most,))
        return replace(batch, first_available=self.first_available())

    def pending(self, *, after: int, limit: int) -> tuple[TelemetryBatch, ...]:
        """Batches with a higher number than ``after``, lowest first."""
        rows = self._journal.rows(
            "SELECT batch FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        first = self.first_available()
        batches = (plain.from_plain(TelemetryBatch, json.loads(row[0])) for row in rows)
        return tuple(replace(batch, first_available=first) for batch in batches)

    def first_available(self) -> int:
        """Lowest number that is still here; the next one to come when there is none."""
        ((lowest,),) = self._journal.rows("SELECT min(sequence) FROM outbox")
        return int(lowest) if lowest is not None else self.last() + 1

    def last(self) -> int:
        """Number of the newest batch ever made; 0 before the first."""
        return int(self._journal.setting("sequence", "0"))

    def count(self) -> int:
        """Batches that wait for an ack."""
        ((count,),) = self._journal.rows("SELECT count(*) FROM outbox")
        return int(count)

    def acknowledge(self, ack: Ack) -> bool:
        """Delete what is on the controller's disk. An ack for another outbox changes nothing."""
        if ack.outbox != self.id:
            return False
        with self._journal.transaction() as db:
            db.execute("DELETE FROM outbox WHERE sequence <= ?", (ack.sequence,))
        return True
