"""The store's in-memory twin: the same promises, nothing durable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from controller.domain import fleet, studies
from controller.domain.belonging import Applicant, DeviceGroup, Note
from controller.domain.labels import FieldTally, LabelPage
from controller.domain.roles import Operator
from controller.domain.stacks import StackAnnouncement
from controller.domain.tickets import Ticket
from controller.errors import Conflict
from controller.store.base import INDEXED, KEYS, as_text, check_filters
from controller.store.telemetry_memory import MemoryTelemetry

R = TypeVar("R")


class MemoryCollection(Generic[R]):
    """Records of one type in a dictionary, in insertion order; indexed fields have their own."""

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._records: dict[str, R] = {}
        self._places: dict[str, int] = {}
        self._last = 0
        self._index: dict[str, dict[object, set[str]]] = {name: {} for name in INDEXED[kind]}
        self._before: dict[str, R | None] | None = None  # what a transaction changed
        self._told: list[Callable[[str], None]] = []

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
        if not equal:
            return tuple(self._records.values())
        found = [self._index[name].get(value, set()) for name, value in equal.items()]
        keys = set.intersection(*sorted(found, key=len))
        return tuple(self._records[key] for key in sorted(keys, key=self._places.__getitem__))

    def delete(self, key: str) -> bool:
        if key not in self._records:
            return False
        self._note(key)
        self._forget(key)
        return True

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
        self._note(key)
        self._replace(key, record)

    def _replace(self, key: str, record: R, *, put_back: bool = False) -> None:
        known = self._records.get(key)
        if known is None and not put_back:
            self._last += 1
            self._places[key] = self._last
        for name, index in self._index.items():
            value = getattr(record, name)
            if known is not None:
                index[getattr(known, name)].discard(key)
            index.setdefault(value, set()).add(key)
        self._records[key] = record

    def _forget(self, key: str) -> None:
        known = self._records.pop(key)
        for name, index in self._index.items():
            index[getattr(known, name)].discard(key)

    def watch(self, told: Callable[[str], None]) -> None:
        self._told.append(told)

    def _note(self, key: str) -> None:
        for told in self._told:
            told(key)
        if self._before is not None:
            self._before.setdefault(key, self._records.get(key))

    def _key(self, record: R) -> str:
        return str(getattr(record, KEYS[self._kind]))

    def begin(self) -> None:
        """Note from here on what `undo` would need: what changes, not all there is."""
        self._before = {}

    def end(self) -> None:
        """What was changed stands."""
        self._before = None

    def undo(self) -> None:
        """Put everything back as it was at `begin`."""
        before, self._before, lost = self._before or {}, None, False
        for key, record in before.items():
            if record is not None:
                lost |= key not in self._records
                self._replace(key, record, put_back=True)
            elif key in self._records:
                self._forget(key)
        if lost:  # what was deleted and is back stands where it stood
            placed = sorted(self._records, key=self._places.__getitem__)
            self._records = {key: self._records[key] for key in placed}


class MemoryStore:
    """Everything the controller remembers, until it stops."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.devices = MemoryCollection(fleet.Device)
        self.tokens = MemoryCollection(fleet.Token)
        self.operators = MemoryCollection(Operator)
        self.models = MemoryCollection(fleet.ModelVersion)
        self.jobs = MemoryCollection(fleet.FitJob)
        self.studies = MemoryCollection(studies.StudyRecord)
        self.releases = MemoryCollection(fleet.Release)
        self.rollouts = MemoryCollection(fleet.Rollout)
        self.deployments = MemoryCollection(fleet.Deployment)
        self.triggers = MemoryCollection(fleet.Trigger)
        self.tickets = MemoryCollection(Ticket)
        self.stacks = MemoryCollection(StackAnnouncement)
        self.audit = MemoryCollection(fleet.AuditEntry)
        self.answers = MemoryCollection(fleet.Answer)
        self.pages = MemoryCollection(LabelPage)
        self.tallies = MemoryCollection(FieldTally)
        self.groups = MemoryCollection(DeviceGroup)
        self.notes = MemoryCollection(Note)
        self.applicants = MemoryCollection(Applicant)
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
        for part in parts:
            part.begin()
        settings = dict(self._settings)
        self._depth, done = 1, False
        try:
            yield
            done = True
        finally:
            self._depth = 0
            if not done:
                self._settings = settings
            for part in parts:
                (part.end if done else part.undo)()

    def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    def set_setting(self, key: str, value: str) -> None:
        self._settings[key] = value

    def close(self) -> None:
        return None
