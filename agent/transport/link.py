"""The device's end of a link: small and frequent messages, both ways.

Three implementations pass one contract suite: `mqtt` (a broker), `session` (a gRPC stream on the
gateway) and `memory` (the twin for tests). What they keep:

- `events` is all that comes from the other side, and the only way it comes: a link's threads
  never call into the supervisor.
- `LinkUp` follows the subscription, so that what the controller sends in answer is not missed;
  presence, then the latest reported state, are on their way before it.
- While the link is down the latest reported state is kept and sent later, and telemetry is
  dropped: the outbox still has it.
- What cannot be read is logged and dropped; nothing that comes ends the link.
"""

from __future__ import annotations

import queue
import random
import threading
from dataclasses import dataclass
from typing import Protocol

from agent.domain import patience
from fitment.core.link import Downlink, Uplink


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUp:
    """The controller can be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDown:
    """It cannot; the link tries again by itself."""

    reason: str


LinkEvent = LinkUp | LinkDown | Downlink


class Passed:
    """Bytes of the messages that went either way, without what carries them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def count(self) -> int:
        """Since the link was made."""
        return self._bytes

    def add(self, count: int) -> None:
        """One message more."""
        with self._lock:
            self._bytes += count


class AgentLink(Protocol):
    """One way to the controller."""

    events: queue.Queue[LinkEvent]
    jitter_s: float
    """Reconnects are scattered over this many seconds; the controller may change it."""
    passed: Passed

    def start(self) -> None:
        """Begin to connect; returns at once."""
        ...

    def send(self, uplink: Uplink) -> None:
        """Send from any thread, without waiting. See the module's text for a link that is down."""
        ...

    def stop(self) -> None:
        """Say goodbye and end; safe to call twice."""
        ...

    def describe(self) -> str:
        """One line for people."""
        ...


class Pacer:
    """Waits between two tries to connect: doubling, scattered, and over when asked to stop."""

    def __init__(self, *, base_s: float = 1.0) -> None:
        self._base_s = base_s
        self._tries = 0
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether the link is to end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the wait, and all later ones."""
        self._stopped.set()

    def connected(self, lasted_s: float) -> None:
        """A connection that lasted is no failed try."""
        if lasted_s >= patience.STEADY_S:
            self._tries = 0

    def wait(self, jitter_s: float) -> None:
        """Wait before the next try."""
        chances = (random.random(), random.random())
        wait_s = patience.reconnect_s(self._tries, jitter_s, chances, base_s=self._base_s)
        self._tries += 1
        self._stopped.wait(wait_s)


class Kept:
    """The latest reported state, kept for when the link is there. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reported: Uplink | None = None

    def put(self, uplink: Uplink) -> None:
        """Remember a reported state; anything else is not kept."""
        if uplink.reported is not None:
            with self._lock:
                self._reported = uplink

    def get(self) -> Uplink | None:
        """The latest, or None before the first."""
        with self._lock:
            return self._reported


def field_of(message: Uplink) -> str:
    """Name of the one field that is set.

    Raises:
        ValueError: none or several are set.
    """
    fields = ("presence", "reported", "telemetry")
    present = [name for name in fields if getattr(message, name) is not None]
    if len(present) != 1:
        raise ValueError(f"exactly one of {', '.join(fields)} must be set, not {len(present)}")
    return present[0]
