"""The two messages that every link carries."""

from __future__ import annotations

from dataclasses import dataclass

from fitment.core.deployment import DesiredState, ReportedState
from fitment.core.telemetry import Ack, Command, Presence, TelemetryBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """Device to controller; exactly one field is set."""

    presence: Presence | None = None
    reported: ReportedState | None = None
    telemetry: TelemetryBatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downlink:
    """Controller to device; exactly one field is set."""

    desired: DesiredState | None = None
    command: Command | None = None
    ack: Ack | None = None
