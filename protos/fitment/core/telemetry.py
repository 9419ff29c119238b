"""Samples, in batches of typed columns, kept until the controller has them on disk."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class CommandKind(enum.Enum):
    """What a controller may ask for at once."""

    REPORT = "report"  # send the reported state now
    PROBE = "probe"  # fingerprint and probe again
    CANCEL = "cancel"  # give up one deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request that is worthless after its deadline."""

    id: str
    kind: CommandKind
    subject: str = ""
    deadline_unix_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryBatch:
    """Rows ``0..n-1``; all columns have ``n`` entries, NaN where a sensor had nothing to say."""

    outbox: str  # id of the outbox: a new one after the journal was lost
    sequence: int  # never resets within an outbox
    first_available: int  # lowest sequence that the device still holds
    boot_id: str
    monotonic_ns: tuple[int, ...]
    wall_unix_ns: tuple[int, ...]
    columns: Mapping[str, Column] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)  # slot, variant, rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One quantity; its unit is part of its name (``latency_p50_ms``)."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """All batches up to ``sequence`` of ``outbox`` are synced to the controller's disk."""

    outbox: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Online or offline; the broker publishes the latter when a device falls silent."""

    online: bool
    boot_id: str
