"""The store's seam: collections of frozen records, and telemetry.

Implementations (`memory`, `sql`) pass one contract suite. Constraints they keep:

- ``put`` inserts or replaces by key; ``add`` refuses a key that is there (`Conflict`).
- ``find`` filters on the indexed fields of the record, by equality, and returns records in
  insertion order.
- everything inside ``with store.transaction():`` becomes durable together or not at all;
  calls outside of one are transactions of their own. One writer at a time; the caller is the
  controller's single writer thread.
- a tenant is part of every key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from controller.domain import fleet, studies
from controller.domain.belonging import Applicant, DeviceGroup, Note
from controller.domain.labels import FieldTally, LabelPage
from controller.domain.roles import Operator
from controller.domain.stacks import StackAnnouncement
from controller.domain.telemetry import Held, Keep, Query, Rollup, Sample
from controller.domain.tickets import Ticket
from fitment.core import plain
from fitment.core.telemetry import Ack, TelemetryBatch

R = TypeVar("R")


class Collection(Protocol, Generic[R]):
    """Records of one type, by key."""

    def get(self, key: str) -> R | None: ...
    def put(self, record: R) -> None: ...
    def add(self, record: R) -> None: ...
    def find(self, **equal: object) -> tuple[R, ...]: ...
    def delete(self, key: str) -> bool: ...

    def watch(self, told: Callable[[str], None]) -> None:
        """Have the key of every record told that is put, added or deleted here from now on.

        What a transaction took back may have been told: it is a reason to look, no news.
        """
        ...

    def page(
        self, limit: int, *, after: int = 0, newest: bool = False, **equal: object
    ) -> tuple[tuple[int, R], ...]:
        """The next records with their places, which neither change nor move.

        ``after`` is the place of the last one seen; the newest come first when asked for so.
        """
        ...

    def tally(self, *by: str, **equal: object) -> Mapping[tuple[str, ...], int]:
        """How many records there are of each combination of plain fields, as `as_text`."""
        ...


class Telemetry(Protocol):
    """Samples, stored exactly once by (device, outbox, sequence), and their rollups.

    What was acknowledged stays known when the samples are gone: a batch that comes again after
    that is not stored again.
    """

    def ingest(self, device: str, batch: TelemetryBatch) -> Ack:
        """Store a batch unless it is there; the ack names the highest contiguous sequence.

        A value that is no reading (`domain.telemetry.is_reading`) is kept as missing.
        """
        ...

    def ingest_many(self, batches: Sequence[tuple[str, TelemetryBatch]]) -> tuple[Ack, ...]:
        """`ingest` for batches of several devices in one transaction; an ack for each.

        Raises:
            ValueError: one has columns of different lengths; none is stored.
        """
        ...

    def latest(
        self, device: str, column: str, limit: int, since_s: float = 0.0
    ) -> tuple[tuple[float, float], ...]:
        """(wall seconds, value) pairs not older than ``since_s``, newest first."""
        ...

    def count(self, device: str) -> int:
        """Rows kept of a device."""
        ...

    def roll_up(self, at: str, rows: int) -> str | None:
        """Add about ``rows`` rows to the rollups that are not in them yet, each once.

        Devices are gone through by name, from ``at`` on. Returns the device that was reached, from
        which to go on, and None when the last one was.
        """
        ...

    def forget(self, what: Keep, before_s: float, keep: int, limit: int) -> int:
        """Delete the oldest rows: what is older than ``before_s``, or more than ``keep``.

        Stops when about ``limit`` are gone; returns how many are. Raw rows that are not rolled up
        yet stay.
        """
        ...

    def rollups(self, query: Query) -> tuple[Rollup, ...]:
        """What was rolled up, a record a span and origin, oldest first."""
        ...

    def quantities(self, device: str) -> tuple[str, ...]:
        """Names of all that a device sent and that is kept, sorted."""
        ...

    def next_sample_s(self, device: str, since_s: float) -> float | None:
        """When its first sample that is kept and not older than that was taken."""
        ...

    def samples(self, device: str, since_s: float, until_s: float) -> tuple[Sample, ...]:
        """What is kept of a device in ``since_s <= time < until_s``, oldest first."""
        ...

    def held(self) -> Held:
        """How much there is; costs little."""
        ...


class Store(Protocol):
    """Everything the controller remembers for one tenant."""

    @property
    def devices(self) -> Collection[fleet.Device]: ...
    @property
    def tokens(self) -> Collection[fleet.Token]: ...
    @property
    def operators(self) -> Collection[Operator]: ...
    @property
    def models(self) -> Collection[fleet.ModelVersion]: ...
    @property
    def jobs(self) -> Collection[fleet.FitJob]: ...
    @property
    def studies(self) -> Collection[studies.StudyRecord]: ...
    @property
    def releases(self) -> Collection[fleet.Release]: ...
    @property
    def rollouts(self) -> Collection[fleet.Rollout]: ...
    @property
    def deployments(self) -> Collection[fleet.Deployment]: ...
    @property
    def triggers(self) -> Collection[fleet.Trigger]: ...
    @property
    def tickets(self) -> Collection[Ticket]: ...
    @property
    def stacks(self) -> Collection[StackAnnouncement]: ...
    @property
    def audit(self) -> Collection[fleet.AuditEntry]: ...
    @property
    def answers(self) -> Collection[fleet.Answer]: ...
    @property
    def pages(self) -> Collection[LabelPage]: ...
    @property
    def tallies(self) -> Collection[FieldTally]: ...
    @property
    def groups(self) -> Collection[DeviceGroup]: ...
    @property
    def notes(self) -> Collection[Note]: ...
    @property
    def applicants(self) -> Collection[Applicant]: ...
    @property
    def telemetry(self) -> Telemetry: ...

    def transaction(self) -> AbstractContextManager[None]: ...
    def setting(self, key: str) -> str | None: ...
    def set_setting(self, key: str, value: str) -> None: ...
    def close(self) -> None: ...


KEYS: Mapping[type, str] = {
    fleet.Device: "name",
    fleet.Token: "hash",
    Operator: "name",
    fleet.ModelVersion: "id",
    fleet.FitJob: "id",
    studies.StudyRecord: "id",
    fleet.Release: "id",
    fleet.Rollout: "id",
    fleet.Deployment: "id",
    fleet.Trigger: "id",
    Ticket: "id",
    StackAnnouncement: "id",
    fleet.AuditEntry: "id",
    fleet.Answer: "key",
    LabelPage: "key",
    FieldTally: "key",
    DeviceGroup: "name",
    Note: "id",
    Applicant: "name",
}
"""Field that is a record's key."""

INDEXED: Mapping[type, tuple[str, ...]] = {
    fleet.Device: ("profile", "revoked"),
    fleet.Token: ("used_by",),
    Operator: ("hash",),
    fleet.ModelVersion: ("name", "digest"),
    fleet.FitJob: ("model", "status"),
    studies.StudyRecord: ("device", "kind", "done_at"),
    fleet.Release: ("model", "slot"),
    fleet.Rollout: ("release", "state"),
    fleet.Deployment: ("rollout", "device", "release", "outcome"),
    fleet.Trigger: ("device", "model", "closed_at"),
    Ticket: ("device", "model", "closed_at"),
    StackAnnouncement: ("name", "profile", "closed_at"),
    fleet.AuditEntry: ("action", "subject"),
    fleet.Answer: (),
    LabelPage: ("device",),
    FieldTally: ("device", "release", "variant"),
    DeviceGroup: (),
    Note: ("device",),
    Applicant: (),
}
"""Fields that ``find`` may filter on."""


def as_text(value: object) -> str:
    """How a field is compared and told apart: text as it is, anything else as its JSON."""
    plain_value = plain.to_plain(value)
    return plain_value if isinstance(plain_value, str) else json.dumps(plain_value)


def check_filters(kind: type[Any], equal: Mapping[str, object]) -> None:
    """Refuse a filter on a field that has no index.

    Raises:
        ValueError: it would be a slow scan in another implementation.
    """
    unknown = sorted(set(equal) - set(INDEXED[kind]))
    if unknown:
        raise ValueError(f"{kind.__name__} has no index on '{unknown[0]}'")


def contiguous(sequences: AbstractSet[int], first_available: int) -> int:
    """Highest sequence up to which nothing that the device still holds is missing.

    What lies below ``first_available`` is gone for good and blocks nothing.
    """
    reached = first_available - 1
    while reached + 1 in sequences:
        reached += 1
    return reached
