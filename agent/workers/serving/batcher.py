"""One stream to the model: requests wait in a line, and run together where that goes.

A request is bound to the model that it was checked against. A swap changes what new requests are
bound to; the old model ends when the last of its own has been answered.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from agent.domain import batching
from agent.domain.batching import Governor, Policy
from agent.workers.child import JobError
from agent.workers.runtimes.base import Array
from agent.workers.serving.served import Cut, Served

_RETRY_S: Final = 0.1  # told to who finds the line full


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The outputs of one request, and the run that it was part of."""

    outputs: list[Array]  # in the model's own types
    rows: int  # samples of the run
    queue_ns: int
    run_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waiting:
    """A request in the line."""

    served: Served
    feeds: Sequence[Array]
    rows: int
    came_ns: int
    answered: Future[Done] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, for those who watch."""

    served: Served
    requests: Sequence[Waiting]
    outputs: list[Array]  # of all requests, one after the other
    rows: int
    run_ns: int


Watcher = Callable[[Run], None]
"""Called by the model's thread once the requests have their answers; must be quick."""


class Batcher:
    """The line and the one thread that runs models."""

    def __init__(self, policy: Policy, *, max_waiting: int, on_run: Watcher) -> None:
        self._policy = policy
        self._max_waiting = max_waiting
        self._on_run = on_run
        self._governor: Governor = batching.governor(policy)
        self._line: collections.deque[Waiting] = collections.deque()
        self._came = threading.Condition()
        self._closed = False
        self.running = 0  # requests that the model has now
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def cap(self) -> int:
        """Samples that go into one run at present."""
        return self._governor.cap

    def submit(self, served: Served, feeds: Sequence[Array], rows: int) -> Future[Done]:
        """Join the line. Cancelling what is returned leaves it again.

        Raises:
            JobError: ``busy`` when the line is full, ``ending`` when the worker ends.
        """
        waiting = Waiting(served=served, feeds=feeds, rows=rows, came_ns=time.perf_counter_ns())
        with self._came:
            if self._closed:
                raise JobError("ending", "the worker is ending: connect again in a moment")
            if len(self._line) >= self._max_waiting:
                raise JobError(
                    "busy",
                    f"{len(self._line)} requests wait already: send fewer at a time or later",
                    retry_after_s=_RETRY_S,
                )
            self._line.append(waiting)
            self._came.notify()
        return waiting.answered

    def forget(self) -> None:
        """Another model: what its batches cost is to be learnt anew."""
        with self._came:
            self._governor = batching.governor(self._policy)

    def close(self) -> None:
        """Answer what waits, then end."""
        with self._came:
            self._closed = True
            self._came.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            # Who was cancelled in the line leaves it here; from now on nobody can.
            batch = [item for item in batch if item.answered.set_running_or_notify_cancel()]
            self.running = len(batch)
            if batch:
                self._run(batch)
            self.running = 0

    def _next(self) -> list[Waiting] | None:
        """The next batch; waits for one. None: closed, and nobody waits."""
        with self._came:
            while True:
                if not self._line:
                    if self._closed:
                        return None
                    self._came.wait()
                    continue
                fitting = self._fitting()
                rows = [item.rows for item in fitting]
                waited_s = (time.perf_counter_ns() - fitting[0].came_ns) / 1e9
                left_s = 0.0
                if fitting[0].served.cut is Cut.TOGETHER and not self._closed:
                    left_s = batching.wait_s(
                        self._policy, self.cap, rows=sum(rows), oldest_s=waited_s
                    )
                if left_s <= 0 or len(fitting) < len(self._line):
                    count = batching.together(rows, self.cap)
                    return [self._line.popleft() for _ in range(count)]
                self._came.wait(left_s)

    def _fitting(self) -> list[Waiting]:
        """From the head of the line, what may run together: the order is kept."""
        first = self._line[0]
        if first.served.cut is not Cut.TOGETHER:
            return [first]
        fitting: list[Waiting] = []
        rows = 0
        for item in self._line:
            if rows >= self.cap or not _alike(first, item):
                break
            fitting.append(item)
            rows += item.rows
        return fitting

    def _run(self, batch: Sequence[Waiting]) -> None:
        began_ns = time.perf_counter_ns()
        served, rows = batch[0].served, sum(item.rows for item in batch)
        try:
            outputs = served.run([item.feeds for item in batch], rows, cap=self._policy.max_rows)
        except JobError as error:
            for item in batch:
                item.answered.set_exception(error)
            return
        run_ns = time.perf_counter_ns() - began_ns
        start = 0
        for item in batch:
            own = outputs if len(batch) == 1 else [o[start : start + item.rows] for o in outputs]
            start += item.rows
            item.answered.set_result(
                Done(outputs=own, rows=rows, queue_ns=began_ns - item.came_ns, run_ns=run_ns)
            )
        with self._came:
            self._governor = self._governor.ran(rows, run_ns / 1e9)
        self._on_run(Run(served=served, requests=batch, outputs=outputs, rows=rows, run_ns=run_ns))


def _alike(one: Waiting, other: Waiting) -> bool:
    """Same model, and the same shapes behind the first axis."""
    return one.served is other.served and all(
        a.shape[1:] == b.shape[1:] for a, b in zip(one.feeds, other.feeds, strict=True)
    )
