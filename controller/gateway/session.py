"""The link over gRPC streams: a registry of the sessions that are open.

The stream itself is in `grpc`, which opens a session here with a device's first message, hands
on what comes, and writes what the session's mailbox holds. This file knows no gRPC.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import logging
import threading
from collections.abc import Callable

from controller.gateway.link import LinkHandler, field_of
from fitment.core.link import Downlink, Uplink

log = logging.getLogger(__name__)

MAILBOX_LIMIT = 256
"""Commands and acks that wait for a slow device; older ones are dropped, senders repeat them."""


class Ended(enum.Enum):
    """Why a session was ended from this side."""

    REPLACED = "a newer session of this device took over"  # the device reconnected
    EVICTED = "this device was revoked"  # an operator's word
    STOPPED = "the controller is stopping; connect again soon"  # this program ends


class Session:
    """One device's stream: what waits to be written, and whether it has ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ended: Ended | None = None
        self._desired: Downlink | None = None
        self._others: collections.deque[Downlink] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Whether something waits to be written."""
        return self._desired is not None or bool(self._others)

    def put(self, downlink: Downlink) -> None:
        """Queue a message; call on the loop's thread."""
        if downlink.desired is not None:
            self._desired = downlink
        else:
            if len(self._others) >= MAILBOX_LIMIT:
                self._others.popleft()
                log.warning("action=mailbox_full device=%s dropped=1", self.device)
            self._others.append(downlink)
        self._wake.set()

    async def take(self) -> Downlink | None:
        """The next message (desired first), or None when the session has ended."""
        while self.ended is None:
            if self._desired is not None:
                desired, self._desired = self._desired, None
                return desired
            if self._others:
                return self._others.popleft()
            self._wake.clear()
            await self._wake.wait()
        return None

    def end(self, why: Ended) -> None:
        """End it; the first reason stands."""
        self.ended = self.ended or why
        self._wake.set()

    def post(self, downlink: Downlink) -> None:
        """`put`, from any thread."""
        self._call(lambda: self.put(downlink))

    def post_end(self, why: Ended) -> None:
        """`end`, from any thread."""
        self._call(lambda: self.end(why))

    def _call(self, act: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:
            log.debug("action=session_gone device=%s", self.device)  # the loop has closed


class SessionLink:
    """All open sessions, at most one a device."""

    def __init__(self) -> None:
        self._handler: LinkHandler | None = None
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def start(self, handler: LinkHandler) -> None:
        self._handler = handler

    def publish(self, device: str, downlink: Downlink) -> None:
        field_of(downlink)
        with self._lock:
            session = self._sessions.get(device)
        if session is not None:
            session.post(downlink)

    def evict(self, device: str) -> None:
        with self._lock:
            session = self._sessions.get(device)
        if session is not None:
            session.post_end(Ended.EVICTED)

    def stop(self) -> None:
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.post_end(Ended.STOPPED)
        self._handler = None

    def is_up(self) -> bool:
        return self._handler is not None

    def describe(self) -> str:
        return "gRPC session on the gateway port"

    def connected(self) -> tuple[str, ...]:
        """Devices with an open session, sorted."""
        with self._lock:
            return tuple(sorted(self._sessions))

    def open(self, device: str) -> Session:
        """Register a device's stream; an older one of the same device ends."""
        session = Session(device)
        with self._lock:
            older = self._sessions.get(device)
            self._sessions[device] = session
        if older is not None:
            older.end(Ended.REPLACED)
        if self._handler is not None:
            self._handler.on_online(device)
        return session

    def received(self, session: Session, uplink: Uplink) -> None:
        """Hand on what came over a session that still stands."""
        if session.ended is None and self._handler is not None:
            self._handler.on_up(session.device, uplink)

    def close(self, session: Session) -> None:
        """Forget a stream that ended; a newer one of the same device is left alone."""
        with self._lock:
            current = self._sessions.get(session.device) is session
            if current:
                del self._sessions[session.device]
        if current and self._handler is not None:
            self._handler.on_offline(session.device)
