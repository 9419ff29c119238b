"""The link's twin in memory: what a controller would see and say, at a test's word."""

from __future__ import annotations

import queue
import threading

from agent.transport.link import Kept, LinkDown, LinkEvent, LinkUp, Passed, field_of
from fitment.core.link import Downlink, Uplink
from fitment.core.telemetry import Presence
from fitment.wire import codec


class MemoryLink:
    """A link whose other side is this object's `received`, `deliver`, `connect`, `disconnect`."""

    def __init__(self, *, boot_id: str = "boot", reachable: bool = True) -> None:
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.jitter_s = 0.0
        self.passed = Passed()
        self.received: list[Uplink] = []
        self._boot_id = boot_id
        self._reachable = reachable
        self._started = False
        self._up = False
        self._kept = Kept()
        self._lock = threading.RLock()

    def start(self) -> None:
        with self._lock:
            self._started = True
            if self._reachable:
                self.connect()

    def send(self, uplink: Uplink) -> None:
        field_of(uplink)
        with self._lock:
            self._kept.put(uplink)
            if self._up:
                self._take(uplink)

    def stop(self) -> None:
        with self._lock:
            if self._up:
                self._say(online=False)
            self._started = self._up = False

    def describe(self) -> str:
        return "memory"

    def connect(self) -> None:
        """Let the controller be reachable."""
        with self._lock:
            self._reachable = True
            if not self._started or self._up:
                return
            self._up = True
            self._say(online=True)
            kept = self._kept.get()
            if kept is not None:
                self._take(kept)
            self.events.put(LinkUp())

    def disconnect(self, reason: str = "the line was cut") -> None:
        """Cut the line; the controller learns it as a broker's will tells it."""
        with self._lock:
            self._reachable = False
            if self._up:
                self._up = False
                self._say(online=False)
                self.events.put(LinkDown(reason=reason))

    def deliver(self, downlink: Downlink) -> None:
        """Say something to the device; lost while the line is cut."""
        with self._lock:
            if self._up:
                self.passed.add(len(codec.encode(downlink)))
                self.events.put(downlink)

    def _say(self, *, online: bool) -> None:
        presence = Presence(online=online, boot_id=self._boot_id)
        self._take(Uplink(presence=presence))

    def _take(self, uplink: Uplink) -> None:
        self.passed.add(len(codec.encode(uplink)))
        self.received.append(uplink)
