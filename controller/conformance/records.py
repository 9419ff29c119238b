"""What came from the agent, in order, and waiting for more of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fitment.core.deployment import DeploymentReport, ReportedState
from fitment.core.link import Uplink
from fitment.core.telemetry import Presence, TelemetryBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One message and when it came, by the monotonic clock."""

    at_s: float
    uplink: Uplink


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call of the agent on the gateway."""

    at_s: float
    call: str  # "FetchArtifact", …
    subject: str  # digest, path, study
    offset: int = 0
    value: object = None  # a submitted measurement or table


@dataclass(slots=True)
class Records:
    """Everything of one run; threads of servers and links add, the checks read."""

    messages: list[Seen] = field(default_factory=list)
    calls: list[Asked] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, uplink: Uplink) -> None:
        with self._changed:
            self.messages.append(Seen(at_s=time.monotonic(), uplink=uplink))
            self._changed.notify_all()

    def call(self, asked: Asked) -> None:
        with self._changed:
            self.calls.append(asked)
            self._changed.notify_all()

    def wait(self, look: Callable[[], T], within_s: float) -> T:
        """What ``look`` gives, as soon as it is true or when the time is over."""
        ends = time.monotonic() + within_s
        with self._changed:
            while not (found := look()):
                left_s = ends - time.monotonic()
                if left_s <= 0:
                    return found
                self._changed.wait(min(left_s, 0.2))
            return found

    def mark(self) -> int:
        """A place in the messages; what comes later is ``since`` it."""
        return len(self.messages)

    def reports(self, since: int = 0) -> list[ReportedState]:
        found = (seen.uplink.reported for seen in self.messages[since:])
        return [reported for reported in found if reported is not None]

    def batches(self, since: int = 0) -> list[TelemetryBatch]:
        found = (seen.uplink.telemetry for seen in self.messages[since:])
        return [batch for batch in found if batch is not None]

    def presences(self, since: int = 0) -> list[Presence]:
        found = (seen.uplink.presence for seen in self.messages[since:])
        return [presence for presence in found if presence is not None]

    def deployment(self, name: str, since: int = 0) -> list[DeploymentReport]:
        """Every report of one deployment, in order."""
        every = (d for reported in self.reports(since) for d in reported.deployments)
        return [report for report in every if report.deployment == name]

    def asked(self, call: str, subject: str = "") -> list[Asked]:
        """Calls of one kind, of one subject where one is given."""
        found = [asked for asked in self.calls if asked.call == call]
        return [asked for asked in found if not subject or asked.subject == subject]
