"""Between the link's threads and the engine's: messages in, answers out, nobody waits.

What comes while the engine is at work is taken in together: one transaction, and one sync of the
disk, for however many messages. So a busy controller gets cheaper by the message, not slower. What
is not urgent, telemetry, waits a moment for company.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from controller.errors import LeaseLost, Temporary
from controller.gateway.link import Link
from controller.gateway.ports import Engine
from controller.reconcile.ingest import Heard
from fitment.core.link import Downlink, Uplink

log = logging.getLogger(__name__)

AGAIN_S = 0.5
"""Pause before the engine is asked again that refused."""
TOGETHER = 500
"""Messages in one transaction at most; between two, the engine does what else waits for it."""
GATHER_S = 0.1
"""Telemetry alone waits so long for more: a transaction costs as much as seven batches in it."""
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
        self._gathering = False  # a timer will ask it
        self._urgent = 0  # of what waits, all that is no telemetry
        self._dropped = 0
        self._taken: list[Heard] = []  # by the engine at present
        self._alone = 0  # messages that are to be taken in one by one

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
            self._urgent += batch is None
        self._see_to_it()

    def _see_to_it(self) -> None:
        """Ask the engine for what waits, now or when more has gathered."""
        with self._lock:
            if self._asked or not self._waiting:
                return
            self._asked = self._is_due()
            gathers = not self._asked and not self._gathering
            self._gathering |= gathers
            asks = self._asked
        if asks:
            self._ask()
        elif gathers:
            self._later(GATHER_S, self._gathered)

    def _is_due(self) -> bool:
        return bool(self._urgent or self._alone or len(self._waiting) >= TOGETHER)

    def _gathered(self) -> None:
        with self._lock:
            self._gathering = False
            asks = bool(self._waiting) and not self._asked
            self._asked |= asks
        if asks:
            self._ask()

    def _ask(self) -> None:
        try:
            self._engine.call(self._drain).add_done_callback(self._ended)
        except Temporary:  # it has stopped; devices say again what matters
            log.debug("action=heard_after_the_end")

    def _drain(self) -> None:
        """On the engine's thread: take in what waits."""
        with self._lock:
            count = 1 if self._alone else min(TOGETHER, len(self._waiting))
            self._taken = [self._waiting.popleft() for _ in range(count)]
            self._alone = max(0, self._alone - 1)
            batches = [batch for batch in map(_batch, self._taken) if batch is not None]
            self._urgent -= len(self._taken) - len(batches)
            self._batches.difference_update(batches)
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("action=telemetry_dropped batches=%d reason=too_many_wait", dropped)
        for device, downlink in self._listener.on_heard(self._taken):
            self._link.publish(device, downlink)

    def _ended(self, drained: Future[None]) -> None:
        """Come back for the rest; what failed together is tried one by one, in its order."""
        error = None if drained.cancelled() else drained.exception()
        taken, self._taken = self._taken, []
        with self._lock:
            if error is not None and len(taken) > 1:
                log.warning("action=taken_one_by_one messages=%d", len(taken))
                self._waiting.extendleft(reversed(taken))
                self._urgent += sum(_batch(heard) is None for heard in taken)
                self._alone = len(taken)
            elif error is not None and taken:
                log.error("action=uplink_failed device=%s", taken[0].device, exc_info=error)
            refused = self._asked = bool(self._waiting) and error is not None and not taken
        if error is not None and refused:
            self._ask_later(error)
        else:
            self._see_to_it()

    def _ask_later(self, error: BaseException) -> None:
        """The engine refused before anything was taken: asking again at once would only spin."""
        if isinstance(error, LeaseLost):
            log.info("action=heard_after_the_end")
            return
        log.warning("action=waits_for_the_engine reason=%s", error)
        self._later(AGAIN_S, self._ask)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        timer.start()


def _batch(heard: Heard) -> tuple[str, str, int] | None:
    """Which batch of telemetry it is."""
    batch = heard.uplink.telemetry if heard.uplink is not None else None
    return None if batch is None else (heard.device, batch.outbox, batch.sequence)
