"""The engine: the one thread that touches the fleet's records.

Gateways hand it work and wait; between two pieces of work it ticks. So the store has a single
writer, and nothing needs a lock. The thread lasts as long as the engine, which matters: workers
that it starts die with it.
"""

from __future__ import annotations

import bisect
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from controller.errors import Temporary
from controller.reconcile.controller import Controller

T = TypeVar("T")
log = logging.getLogger("controller.engine")


TICK_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""How long ticks are told apart by; a last bucket has the longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """How the ticks since the start went."""

    seconds: float = 0.0  # all together
    cpu_s: float = 0.0  # processor time of the same
    failures: int = 0
    buckets: tuple[int, ...] = (0,) * (len(TICK_BUCKETS_S) + 1)  # ticks of each length

    def with_one(self, seconds: float, *, failed: bool, cpu_s: float = 0.0) -> Ticks:
        """And one more."""
        place = bisect.bisect_left(TICK_BUCKETS_S, seconds)
        buckets = (*self.buckets[:place], self.buckets[place] + 1, *self.buckets[place + 1 :])
        failures = self.failures + failed
        return Ticks(
            seconds=self.seconds + seconds, cpu_s=self.cpu_s + cpu_s, failures=failures,
            buckets=buckets,
        )  # fmt: skip


class Engine:
    """A thread with a queue, and a second one that puts a tick into it now and then."""

    def __init__(
        self, controller: Controller, *, tick_s: float = 1.0,
        guard: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """``guard`` is called before each piece of work, and may refuse it by raising."""
        self._guard = guard
        self.controller = controller
        self._tick_s = tick_s
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._ticker = threading.Thread(target=self._tick_on, name="engine-ticker", daemon=True)
        self._stopping = threading.Event()
        self._failing = ""
        self.ticks = Ticks()

    def start(self) -> None:
        """Begin to tick."""
        self._ticker.start()

    def call(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run ``fn`` on the engine's thread, in order; its exception is the future's.

        Raises:
            Temporary: the engine has stopped.
        """

        def guarded() -> T:
            self._guard()
            return fn()

        return self._submit(guarded)

    def _submit(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
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
                wait_s = self._submit(self._tick).result()
        except Temporary:
            log.debug("action=stopped_between_ticks")

    def _tick(self) -> float:
        began, worked, failed = time.perf_counter(), time.thread_time(), True
        try:
            self._guard()
            wait_s = min(self.controller.tick(), self._tick_s)
            failed = False
        except Exception as error:  # the outermost loop: a bad record must not stop the fleet
            if str(error) != self._failing:
                log.exception("action=tick_failed")
            self._failing = str(error)
            return self._tick_s
        finally:
            self.ticks = self.ticks.with_one(
                time.perf_counter() - began, failed=failed, cpu_s=time.thread_time() - worked
            )
        if self._failing:
            log.info("action=tick_recovered")
        self._failing = ""
        return wait_s
