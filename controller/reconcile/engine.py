"""The engine: the one thread that touches the fleet's records.

Gateways hand it work and wait; between two pieces of work it ticks. So the store has a single
writer, and nothing needs a lock. The thread lasts as long as the engine, which matters: workers
that it starts die with it.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from controller.errors import Temporary
from controller.reconcile.controller import Controller

T = TypeVar("T")
log = logging.getLogger("controller.engine")


class Engine:
    """A thread with a queue, and a second one that puts a tick into it now and then."""

    def __init__(self, controller: Controller, *, tick_s: float = 1.0) -> None:
        self.controller = controller
        self._tick_s = tick_s
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._ticker = threading.Thread(target=self._tick_on, name="engine-ticker", daemon=True)
        self._stopping = threading.Event()
        self._failing = ""

    def start(self) -> None:
        """Begin to tick."""
        self._ticker.start()

    def call(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run ``fn`` on the engine's thread, in order; its exception is the future's.

        Raises:
            Temporary: the engine has stopped.
        """
        try:
            return self._writer.submit(fn)
        except RuntimeError as error:
            raise Temporary("the controller is stopping; try again in a moment") from error

    def stop(self) -> None:
        """Finish what is queued, then end. Stopping again does nothing."""
        self._stopping.set()
        if self._ticker.is_alive():
            self._ticker.join()
        self._writer.shutdown(wait=True)

    def _tick_on(self) -> None:
        wait_s = 0.0
        try:
            while not self._stopping.wait(wait_s):
                wait_s = self.call(self._tick).result()
        except Temporary:
            log.debug("action=stopped_between_ticks")

    def _tick(self) -> float:
        try:
            wait_s = min(self.controller.tick(), self._tick_s)
        except Exception as error:  # the outermost loop: a bad record must not stop the fleet
            if str(error) != self._failing:
                log.exception("action=tick_failed")
            self._failing = str(error)
            return self._tick_s
        if self._failing:
            log.info("action=tick_recovered")
        self._failing = ""
        return wait_s
