"""The store's in-memory twin: the same promises, nothing durable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from controller.domain import fleet
from controller.errors import Conflict
from controller.store.base import INDEXED, KEYS
from fitment.core.telemetry import Ack, TelemetryBatch

R = TypeVar("R")


class MemoryCollection(Generic[R]):
    """Records of one type in a dictionary, in insertion order."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._records: dict[str, R] = {}

    def get(self, key: str) -> R | None:
        return self._records.get(key)

    def put(self, record: R) -> None:
        self._records[self._key(record)] = record

    def add(self, record: R) -> None:
        key = self._key(record)
        if key in self._records:
            raise Conflict(f"{self._kind.__name__} '{key}' is there already")
        self._records[key] = record

    def find(self, **equal: object) -> tuple[R, ...]:
        check_filters(self._kind, equal)
        return tuple(
            record
            for record in self._records.values()
            if all(getattr(record, name) == value for name, value in equal.items())
        )

    def delete(self, key: str) -> bool:
        return self._records.pop(key, None) is not None

    def _key(self, record: R) -> str:
        return str(getattr(record, KEYS[self._kind]))

    def snapshot(self) -> dict[str, R]:
        """A copy, for undoing a failed transaction."""
        return dict(self._records)

    def restore(self, records: dict[str, R]) -> None:
        """Back to a copy."""
        self._records = records


class MemoryTelemetry:
    """Batches by (device, outbox, sequence)."""

    def __init__(self) -> None:
        self._batches: dict[tuple[str, str], dict[int, TelemetryBatch]] = {}

    def ingest(self, device: str, batch: TelemetryBatch) -> Ack:
        held = self._batches.setdefault((device, batch.outbox), {})
        held.setdefault(batch.sequence, batch)
        return Ack(outbox=batch.outbox, sequence=contiguous(set(held), batch.first_available))

    def latest(self, device: str, column: str, limit: int) -> tuple[tuple[float, float], ...]:
        rows = [
            (wall / 1e9, value)
            for (owner, _), held in self._batches.items()
            if owner == device
            for batch in held.values()
            if column in batch.columns
            for wall, value in zip(batch.wall_unix_ns, batch.columns[column].values, strict=True)
            if not math.isnan(value)
        ]
        return tuple(sorted(rows, reverse=True)[:limit])

    def count(self, device: str) -> int:
        return sum(
            len(batch.wall_unix_ns)
            for (owner, _), held in self._batches.items()
            if owner == device
            for batch in held.values()
        )


class MemoryStore:
    """Everything the controller remembers, until it stops."""

    def __init__(self, tenant: str = "default") -> None:
        self.tenant = tenant
        self.devices = MemoryCollection(fleet.Device)
        self.tokens = MemoryCollection(fleet.Token)
        self.models = MemoryCollection(fleet.ModelVersion)
        self.jobs = MemoryCollection(fleet.FitJob)
        self.studies = MemoryCollection(fleet.StudyRecord)
        self.releases = MemoryCollection(fleet.Release)
        self.rollouts = MemoryCollection(fleet.Rollout)
        self.deployments = MemoryCollection(fleet.Deployment)
        self.triggers = MemoryCollection(fleet.Trigger)
        self.audit = MemoryCollection(fleet.AuditEntry)
        self.telemetry = MemoryTelemetry()
        self._settings: dict[str, str] = {}
        self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        collections = [v for v in vars(self).values() if isinstance(v, MemoryCollection)]
        before = [(c, c.snapshot()) for c in collections] if self._depth == 0 else []
        settings = dict(self._settings)
        self._depth += 1
        done = False
        try:
            yield
            done = True
        finally:
            self._depth -= 1
            if not done and self._depth == 0:
                for collection, records in before:
                    collection.restore(records)
                self._settings = settings

    def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    def set_setting(self, key: str, value: str) -> None:
        self._settings[key] = value

    def close(self) -> None:
        return None


def check_filters(kind: type[Any], equal: dict[str, object]) -> None:
    """Refuse a filter on a field that has no index.

    Raises:
        ValueError: which would be a slow scan in another implementation.
    """
    unknown = sorted(set(equal) - set(INDEXED[kind]))
    if unknown:
        raise ValueError(f"{kind.__name__} has no index on '{unknown[0]}'")


def contiguous(sequences: set[int], first_available: int) -> int:
    """Highest sequence up to which nothing that the device still holds is missing.

    What lies below ``first_available`` is gone for good and blocks nothing.
    """
    reached = first_available - 1
    while reached + 1 in sequences:
        reached += 1
    return reached
