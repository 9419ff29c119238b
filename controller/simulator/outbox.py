"""A modelled device's telemetry: numbered, kept until the controller has it on its disk.

The rules are the agent's own (`agent.domain.patience`), in memory: a window of batches on the
way, sent again when no ack came for long or the link is new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.domain import patience
from fitment.core.telemetry import Ack, Column, TelemetryBatch


@dataclass(slots=True, kw_only=True)
class Kept:
    """A batch that waits for its ack."""

    batch: TelemetryBatch
    sent_at: float | None = None  # monotonic seconds, first sent


class Outbox:
    """Batches of one device, lowest number first."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.last = 0
        self._kept: deque[Kept] = deque(maxlen=patience.OUTBOX_LIMIT)
        self._sent = 0
        self._sent_at = 0.0
        self._tries = 0  # times in a row that no ack came

    def __len__(self) -> int:
        return len(self._kept)

    def append(
        self, columns: Mapping[str, float], tags: Mapping[str, str], *, now: float, wall_s: float
    ) -> None:
        """Keep one row as a batch."""
        self.last += 1
        batch = TelemetryBatch(
            outbox=self.id, sequence=self.last, first_available=0, boot_id="boot",
            monotonic_ns=(int(now * 1e9),), wall_unix_ns=(int(max(0.0, wall_s) * 1e9),),
            columns={name: Column(values=(value,)) for name, value in columns.items()}, tags=tags,
        )  # fmt: skip
        self._kept.append(Kept(batch=batch))

    def due(self, now: float) -> list[TelemetryBatch]:
        """What is to be sent now."""
        if not self._kept:
            return []
        first = self._kept[0].batch.sequence
        if self._sent >= first and now - self._sent_at > patience.resend_s(self._tries):
            self._sent, self._tries = 0, self._tries + 1
        room = patience.room(self._tries, max(0, self._sent - first + 1))
        found = []
        for kept in self._kept:
            if room <= 0:
                break
            if kept.batch.sequence > self._sent:
                kept.sent_at = now if kept.sent_at is None else kept.sent_at
                found.append(replace(kept.batch, first_available=first))
                self._sent, self._sent_at = kept.batch.sequence, now
                room -= 1
        return found

    def acknowledge(self, ack: Ack, now: float) -> list[float]:
        """Forget what is stored; gives the seconds that each took from when it was first sent."""
        took = []
        while ack.outbox == self.id and self._kept and self._kept[0].batch.sequence <= ack.sequence:
            kept = self._kept.popleft()
            if kept.sent_at is not None:
                took.append(now - kept.sent_at)
        if ack.outbox == self.id:
            self._tries = 0
            self._sent = max(self._sent, ack.sequence)
        return took

    def resend(self) -> None:
        """The link is new: what was on the way may be lost."""
        self._sent = 0
