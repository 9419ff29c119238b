"""The store's in-memory twin: the same promises, nothing durable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from controller.domain import fleet
from controller.errors import Conflict
from controller.store.base import KEYS, as_text, check_filters
from controller.store.telemetry_memory import MemoryTelemetry

R = TypeVar("R")


class MemoryCollection(Generic[R]):
    """Records of one type in a dictionary, in insertion order."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._records: dict[str, R] = {}
        self._places: dict[str, int] = {}
        self._last = 0

    def get(self, key: str) -> R | None:
        return self._records.get(key)

    def put(self, record: R) -> None:
        self._keep(self._key(record), record)

    def add(self, record: R) -> None:
        key = self._key(record)
        if key in self._records:
            raise Conflict(f"{self._kind.__name__} '{key}' is there already")
        self._keep(key, record)

    def find(self, **equal: object) -> tuple[R, ...]:
        check_filters(self._kind, equal)
        return tuple(
            record
            for record in self._records.values()
            if all(getattr(record, name) == value for name, value in equal.items())
        )

    def delete(self, key: str) -> bool:
        return self._records.pop(key, None) is not None

    def page(
        self, limit: int, *, after: int = 0, newest: bool = False, **equal: object
    ) -> tuple[tuple[int, R], ...]:
        placed = [(self._places[self._key(record)], record) for record in self.find(**equal)]
        if newest:
            placed = [pair for pair in reversed(placed) if not after or pair[0] < after]
        return tuple([pair for pair in placed if newest or pair[0] > after][:limit])

    def tally(self, *by: str, **equal: object) -> Mapping[tuple[str, ...], int]:
        fields = {field.name for field in dataclasses.fields(self._kind)}  # type: ignore[arg-type]
        if not by or not set(by) <= fields:
            raise ValueError(f"{self._kind.__name__} cannot be told apart by {', '.join(by)}")
        found = self.find(**equal)
        return Counter(tuple(as_text(getattr(record, name)) for name in by) for record in found)

    def _keep(self, key: str, record: R) -> None:
        if key not in self._records:
            self._last += 1
            self._places[key] = self._last
        self._records[key] = record

    def _key(self, record: R) -> str:
        return str(getattr(record, KEYS[self._kind]))

    def undo(self) -> Callable[[], None]:
        """What puts everything back as it is now."""
        records, places, last = dict(self._records), dict(self._places), self._last

        def put_back() -> None:
            self._records, self._places, self._last = records, places, last

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
        self.answers = MemoryCollection(fleet.Answer)
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
