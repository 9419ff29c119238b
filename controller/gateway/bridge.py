"""Between the link's threads and the engine's: messages in, answers out, nobody waits.

What comes while the engine is at work is taken in together: one transaction, and one sync of the
disk, for however many messages. So a busy controller gets cheaper by the message, not slower.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from controller.errors import Temporary
from controller.gateway.link import Link
from controller.gateway.ports import Engine
from controller.reconcile.ingest import Heard
from fitment.core.link import Downlink, Uplink

log = logging.getLogger(__name__)

TOGETHER = 500
"""Messages in one transaction at most; between two, the engine does what else waits for it."""
WAITING_MOST = 20_000
"""Beyond so many, telemetry is dropped: its device has it still, and sends it again."""


class Listener(Protocol):
    """The part of the controller that a link talks to."""

    def on_heard(self, heard: Sequence[Heard]) -> tuple[tuple[str, Downlink], ...]: ...


class Bridge:
    """A `LinkHandler` that hands everything to the engine, in order."""

    def __init__(self, engine: Engine, listener: Listener, link: Link) -> None:
        self._engine = engine
        self._listener = listener
        self._link = link
        self._waiting: deque[Heard] = deque()
        self._lock = threading.Lock()
        self._batches: set[tuple[str, str, int]] = set()  # of telemetry that waits
        self._asked = False  # the engine knows that something waits
        self._dropped = 0

    def on_up(self, device: str, uplink: Uplink) -> None:
        self._put(Heard(device=device, uplink=uplink))

    def on_online(self, device: str) -> None:
        self._put(Heard(device=device, up=True))

    def on_offline(self, device: str) -> None:
        self._put(Heard(device=device, up=False))

    def _put(self, heard: Heard) -> None:
        batch = _batch(heard)
        with self._lock:
            if batch is not None:
                if batch in self._batches:
                    return  # it was sent again, since no ack came yet
                if len(self._waiting) >= WAITING_MOST:
                    self._dropped += 1
                    return
                self._batches.add(batch)
            self._waiting.append(heard)
            asked, self._asked = self._asked, True
        if not asked:
            self._ask()

    def _ask(self) -> None:
        try:
            self._engine.call(self._drain)
        except Temporary:  # it has stopped; devices say again what matters
            log.debug("action=heard_after_the_end")

    def _drain(self) -> None:
        """On the engine's thread: take in what waits, and come back for the rest."""
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            self._batches.difference_update(filter(None, map(_batch, taken)))
            more = self._asked = bool(self._waiting)
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("action=telemetry_dropped batches=%d reason=too_many_wait", dropped)
        try:
            self._take_in(taken)
        finally:
            if more:
                self._ask()

    def _take_in(self, taken: Sequence[Heard]) -> None:
        try:
            answers = self._listener.on_heard(taken)
        except Exception:
            if len(taken) == 1:
                log.exception("action=uplink_failed device=%s", taken[0].device)
                return
            log.warning("action=taken_one_by_one messages=%d", len(taken))
            for one in taken:  # so that one of them cannot keep out the others
                self._take_in((one,))
            return
        for device, downlink in answers:
            self._link.publish(device, downlink)


def _batch(heard: Heard) -> tuple[str, str, int] | None:
    """Which batch of telemetry it is."""
    batch = heard.uplink.telemetry if heard.uplink is not None else None
    return None if batch is None else (heard.device, batch.outbox, batch.sequence)
