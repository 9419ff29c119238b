"""Telemetry in the in-memory twin: the same promises, nothing durable."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from controller.domain.telemetry import (
    Held,
    Keep,
    Period,
    Query,
    Rollup,
    Sample,
    added,
    is_reading,
    origin_of,
    rolled,
)
from controller.store.base import contiguous
from fitment.core.telemetry import Ack, TelemetryBatch

_PERIODS = {Keep.HOUR: Period.HOUR, Keep.DAY: Period.DAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A batch; without rows once they were forgotten."""

    device: str
    batch: TelemetryBatch
    rolled: bool = False

    @property
    def rows(self) -> int:
        return len(self.batch.wall_unix_ns)

    @property
    def newest_s(self) -> float:
        return max(self.batch.wall_unix_ns, default=0) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outbox:
    acked: int = -1
    forgotten: int = -1
    batches: dict[int, _Kept] = field(default_factory=dict)


_Before = tuple[dict[tuple[str, str], _Outbox], dict[Period, dict[object, Rollup]], int]


class MemoryTelemetry:
    """Batches by (device, outbox, sequence), rollups by what they tell of."""

    def __init__(self) -> None:
        self._outboxes: dict[tuple[str, str], _Outbox] = {}
        self._rollups: dict[Period, dict[object, Rollup]] = {period: {} for period in Period}
        # Keys of rollups; one that is not there any more does no harm.
        self._by_device: dict[Period, dict[str, dict[object, None]]] = {p: {} for p in Period}
        self._rows_ever = 0
        self._armed = False
        self._before: _Before | None = None

    def ingest_many(self, batches: Sequence[tuple[str, TelemetryBatch]]) -> tuple[Ack, ...]:
        for _, batch in batches:
            _check(batch)
        found = [self.ingest(device, batch) for device, batch in batches]
        last = {(device, ack.outbox): ack for (device, _), ack in zip(batches, found, strict=True)}
        return tuple(last[device, batch.outbox] for device, batch in batches)

    def ingest(self, device: str, batch: TelemetryBatch) -> Ack:
        self._change()
        _check(batch)
        held = self._outboxes.get((device, batch.outbox), _Outbox())
        batches = held.batches
        if batch.sequence > held.forgotten and batch.sequence not in batches:
            batches = {**batches, batch.sequence: _Kept(device=device, batch=batch)}
            self._rows_ever += len(batch.wall_unix_ns)
        acked = contiguous(set(batches), max(batch.first_available, held.acked + 1))
        changed = replace(held, acked=acked, batches=batches)
        self._outboxes[device, batch.outbox] = _without_empty(changed)
        return Ack(outbox=batch.outbox, sequence=acked)

    def latest(
        self, device: str, column: str, limit: int, since_s: float = 0.0
    ) -> tuple[tuple[float, float], ...]:
        rows = [
            (wall / 1e9, value)
            for kept in self._kept()
            if kept.device == device and column in kept.batch.columns
            for wall, value in zip(
                kept.batch.wall_unix_ns, kept.batch.columns[column].values, strict=True
            )
            if is_reading(value) and wall / 1e9 >= since_s
        ]
        return tuple(sorted(rows, reverse=True)[:limit])

    def count(self, device: str) -> int:
        return sum(kept.rows for kept in self._kept() if kept.device == device)

    def roll_up(self, at: str, rows: int) -> str | None:
        self._change()
        waiting = [kept for kept in self._kept() if not kept.rolled and kept.device >= at]
        done = 0
        for kept in sorted(waiting, key=lambda kept: kept.device):
            if done >= rows:
                return kept.device
            self._add(kept)
            outbox = self._outboxes[kept.device, kept.batch.outbox]
            outbox.batches[kept.batch.sequence] = replace(kept, rolled=True)
            done += kept.rows
        return None

    def _add(self, kept: _Kept) -> None:
        origin, batch = origin_of(kept.device, kept.batch.tags), kept.batch
        for quantity, column in batch.columns.items():
            for wall, value in zip(batch.wall_unix_ns, column.values, strict=True):
                if not is_reading(value):
                    continue
                for period, rollups in self._rollups.items():
                    start = period.start(wall / 1e9)
                    more = rolled(quantity, start, origin, [value])
                    key = (quantity, start, origin)
                    rollups[key] = added(rollups[key], more) if key in rollups else more
                    self._by_device[period].setdefault(origin.device, {})[key] = None

    def forget(self, what: Keep, before_s: float, keep: int, limit: int) -> int:
        self._change()
        if what is Keep.RAW:
            return self._forget_raw(before_s, keep, limit)
        rollups = self._rollups[_PERIODS[what]]
        excess = len(rollups) - keep
        if excess > 0:
            oldest = heapq.nsmallest(limit, rollups.items(), key=lambda item: item[1].start_s)
        else:
            oldest = [item for item in rollups.items() if item[1].start_s < before_s]
            oldest = sorted(oldest, key=lambda item: item[1].start_s)[:limit]
        gone = [
            key
            for place, (key, rollup) in enumerate(oldest)
            if rollup.start_s < before_s or place < excess
        ]
        for key in gone:
            device = rollups.pop(key).origin.device
            self._by_device[_PERIODS[what]].get(device, {}).pop(key, None)
        return len(gone)

    def _forget_raw(self, before_s: float, keep: int, limit: int) -> int:
        rows, gone = self.held().rows, 0
        ready = [kept for kept in self._kept() if kept.rolled and kept.rows]
        for kept in sorted(ready, key=lambda kept: kept.newest_s):
            if gone >= limit or (kept.newest_s >= before_s and rows - gone <= keep):
                break
            gone += kept.rows
            key = (kept.device, kept.batch.outbox)
            empty = replace(kept.batch, wall_unix_ns=(), monotonic_ns=(), columns={})
            self._outboxes[key].batches[empty.sequence] = replace(kept, batch=empty)
            self._outboxes[key] = _without_empty(self._outboxes[key])
        return gone

    def rollups(self, query: Query) -> tuple[Rollup, ...]:
        found = [
            rollup
            for rollup in self._of(query)
            if (rollup.quantity == query.quantity or query.prefix)
            and rollup.quantity.startswith(query.quantity)
            and query.since_s <= rollup.start_s < query.until_s
            and all(getattr(rollup.origin, k) == value for k, value in query.wanted.items())
        ]
        return tuple(sorted(found, key=lambda rollup: rollup.start_s)[: query.limit])

    def quantities(self, device: str) -> tuple[str, ...]:
        mine = (kept.batch.columns for kept in self._kept() if kept.device == device)
        return tuple(sorted({name for columns in mine for name in columns}))

    def next_sample_s(self, device: str, since_s: float) -> float | None:
        later = self.samples(device, since_s, float("inf"))
        return later[0].wall_s if later else None

    def samples(self, device: str, since_s: float, until_s: float) -> tuple[Sample, ...]:
        found = [
            _sample(kept, number, wall / 1e9)
            for kept in self._kept()
            if kept.device == device
            for number, wall in enumerate(kept.batch.wall_unix_ns)
            if since_s <= wall / 1e9 < until_s
        ]
        return tuple(sorted(found, key=lambda sample: sample.wall_s))

    def _of(self, query: Query) -> Iterable[Rollup]:
        """Those of its device, or all; the look at one device must not be one at the fleet."""
        kept, by_device = self._rollups[query.period], self._by_device[query.period]
        if not query.device:
            return kept.values()
        return [kept[key] for key in by_device.get(query.device, ()) if key in kept]

    def held(self) -> Held:
        return Held(
            rows=sum(kept.rows for kept in self._kept()), rows_ever=self._rows_ever,
            hours=len(self._rollups[Period.HOUR]), days=len(self._rollups[Period.DAY]),
        )  # fmt: skip

    def _kept(self) -> Iterable[_Kept]:
        return [kept for outbox in self._outboxes.values() for kept in outbox.batches.values()]

    def begin(self) -> None:
        """From here on the first change keeps what was before it, for `undo`."""
        self._armed, self._before = True, None

    def end(self) -> None:
        """What was changed stands."""
        self._armed, self._before = False, None

    def undo(self) -> None:
        """Put everything back as it was at `begin`."""
        if self._before is not None:
            self._outboxes, self._rollups, self._rows_ever = self._before
            for period, kept in self._rollups.items():
                for key, rollup in kept.items():
                    self._by_device[period].setdefault(rollup.origin.device, {})[key] = None
        self.end()

    def _change(self) -> None:
        if self._armed and self._before is None:
            outboxes = {k: replace(o, batches=dict(o.batches)) for k, o in self._outboxes.items()}
            rollups = {period: dict(kept) for period, kept in self._rollups.items()}
            self._before = outboxes, rollups, self._rows_ever


def _without_empty(outbox: _Outbox) -> _Outbox:
    """Batches without rows are known by a number alone, once all before them are settled."""
    gone = [
        number for number, kept in outbox.batches.items()
        if not kept.rows and number <= outbox.acked
    ]  # fmt: skip
    left = {number: kept for number, kept in outbox.batches.items() if number not in gone}
    return replace(outbox, batches=left, forgotten=max([outbox.forgotten, *gone]))


def _sample(kept: _Kept, number: int, wall_s: float) -> Sample:
    columns = kept.batch.columns.items()
    said = {name: column.values[number] for name, column in columns}
    return Sample(
        device=kept.device, wall_s=wall_s, boot_id=kept.batch.boot_id, tags=kept.batch.tags,
        values={name: value if is_reading(value) else None for name, value in said.items()},
    )  # fmt: skip


def _check(batch: TelemetryBatch) -> None:
    if any(len(c.values) != len(batch.wall_unix_ns) for c in batch.columns.values()):
        raise ValueError("a telemetry batch has columns of different lengths")
