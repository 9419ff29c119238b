"""The store's in-memory twin: the same promises, nothing durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from controller.domain import fleet
from controller.errors import Conflict
from controller.store.base import KEYS, check_filters
from controller.store.telemetry_memory import MemoryTelemetry

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

    def undo(self) -> Callable[[], None]:
        """What puts everything back as it is now."""
        records = dict(self._records)

        def put_back() -> None:
            self._records = records

        return put_back


class MemoryStore:
    """Everything the controller remembers, until it stops."""

    def __init__(self, tenant: str) -> None:
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
        if self._depth:  # inner ones join the outer
            yield
            return
        parts = [
            v for v in vars(self).values() if isinstance(v, MemoryCollection | MemoryTelemetry)
        ]
        undo = [part.undo() for part in parts]
        settings = dict(self._settings)
        self._depth, done = 1, False
        try:
            yield
            done = True
        finally:
            self._depth = 0
            if not done:
                self._settings = settings
                for put_back in undo:
                    put_back()

    def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    def set_setting(self, key: str, value: str) -> None:
        self._settings[key] = value

    def close(self) -> None:
        return None
