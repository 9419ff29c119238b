"""The engine: the one thread that touches the fleet's records.

Gateways hand it work and wait; between two pieces of work it ticks. So the store has a single
writer, and nothing needs a lock.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from controller.reconcile.controller import Controller

T = TypeVar("T")
log = logging.getLogger("controller.engine")


class Engine:
    """A thread with a queue."""

    def __init__(self, controller: Controller, *, tick_s: float = 1.0) -> None:
        self.controller = controller
        self._tick_s = tick_s
        self._queue: queue.Queue[tuple[Callable[[], Any], concurrent.futures.Future[Any]] | None]
        self._queue = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failing = ""

    def start(self) -> None:
        """Begin to work and to tick."""
        self._thread.start()

    def call(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run ``fn`` on the engine's thread, in order; its exception is the future's."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.put((fn, future))
        return future

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join(timeout=30.0)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                due = time.monotonic() + min(self._tick(), self._tick_s)
                continue
            if item is None:
                return
            _settle(*item)
            if time.monotonic() >= due:
                due = time.monotonic() + min(self._tick(), self._tick_s)

    def _tick(self) -> float:
        try:
            wait_s = self.controller.tick()
        except Exception as error:  # the outermost loop: a bad record must not stop the fleet
            if str(error) != self._failing:
                log.exception("action=tick_failed")
            self._failing = str(error)
            return self._tick_s
        if self._failing:
            log.info("action=tick_recovered")
        self._failing = ""
        return wait_s


def _settle(fn: Callable[[], Any], future: concurrent.futures.Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(fn())
    except Exception as error:  # noqa: BLE001 - raised again where the future is awaited
        future.set_exception(error)
