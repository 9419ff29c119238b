"""Shadow: a candidate sees live inputs; its answers are compared, and go nowhere.

It runs in a thread of the lowest priority behind a short line: what it cannot take is dropped
and counted, so that it may be slow and the one that serves is not.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent.workers import statistics
from agent.workers.child import JobError
from agent.workers.runtimes.base import Array, Tensor
from agent.workers.serving import served as serving
from agent.workers.serving.served import Served

LINE: Final = 16
"""Runs that wait for the candidate."""
_LOWEST: Final = 19  # nice
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One run of the model that serves."""

    requests: Sequence[Sequence[Array]]  # native inputs of each
    tensors: Sequence[Tensor]  # these inputs' descriptions
    rows: int
    output: Array  # the first, as offered, of all requests
    run_ns: int


class Shadow:
    """One candidate and what was found about it."""

    def __init__(self, candidate: Served, *, cap: int) -> None:
        self.candidate = candidate
        self._cap = cap
        self._line: queue.Queue[Seen | None] = queue.Queue(LINE)
        self._lock = threading.Lock()
        self._samples = self._agreed = self._dropped = 0
        self._errors: collections.Counter[str] = collections.Counter()
        self._worst: float | None = None
        self._reason = ""
        self._own_ns: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self._its_ns: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def show(self, seen: Seen) -> None:
        """Put a request into the line, or drop it. Returns at once."""
        try:
            self._line.put_nowait(seen)
        except queue.Full:
            with self._lock:
                self._dropped += seen.rows

    def close(self) -> None:
        """End it; what waits is dropped."""
        while True:
            with contextlib.suppress(queue.Full):
                self._line.put_nowait(None)
                break
            with contextlib.suppress(queue.Empty):
                self._line.get_nowait()
        self._thread.join()
        self.candidate.close()

    def report(self) -> dict[str, Any]:
        """As JSON. Latencies are those of runs alone, the candidate's at the lowest priority."""
        with self._lock:
            return {
                "variant": self.candidate.loaded.bundle.variant,
                "name": self.candidate.loaded.bundle.manifest.name,
                "samples": self._samples,
                "dropped": self._dropped,
                "errors": dict(self._errors),
                "reason": self._reason,
                "agreement": self._agreed / self._samples if self._samples else None,
                "worst_difference": self._worst,
                "run_p50_ms": _median_ms(self._own_ns),
                "serving_run_p50_ms": _median_ms(self._its_ns),
            }

    def _work(self) -> None:
        if sys.platform.startswith("linux"):  # there a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        while (seen := self._line.get()) is not None:
            self._look(seen)

    def _look(self, seen: Seen) -> None:
        try:
            self._compare(seen)
        except JobError as error:
            with self._lock:
                self._errors[error.code] += 1
                self._reason = error.message

    def _compare(self, seen: Seen) -> None:
        own = self.candidate
        requests = [self._converted(seen, feeds) for feeds in seen.requests]
        rows = sum(own.samples_in([feed.shape for feed in feeds]) for feeds in requests)
        began_ns = time.perf_counter_ns()
        outputs = own.run(requests, rows, cap=self._cap)
        run_ns = time.perf_counter_ns() - began_ns
        self._take_down(seen, serving.offered(own.outputs[0], outputs[0]), run_ns)

    def _converted(self, seen: Seen, feeds: Sequence[Array]) -> list[Array]:
        ours = self.candidate.inputs
        if len(ours) != len(feeds):
            raise JobError("input_mismatch", f"the candidate takes {len(ours)} inputs")
        triples = zip(seen.tensors, feeds, ours, strict=True)
        return [serving.native(own, serving.offered(its, values)) for its, values, own in triples]

    def _take_down(self, seen: Seen, output: Array, run_ns: int) -> None:
        if output.shape != seen.output.shape:
            raise JobError(
                "output_mismatch",
                f"the candidate's answer has shape {output.shape}, the other {seen.output.shape}",
            )
        ours, theirs = output.reshape(len(output), -1), seen.output.reshape(len(output), -1)
        agreed = int(np.count_nonzero(ours.argmax(axis=1) == theirs.argmax(axis=1)))
        worst = float(np.max(np.abs(ours.astype(np.float64) - theirs), initial=0.0))
        with self._lock:
            self._samples += len(output)
            self._agreed += agreed
            self._worst = max(self._worst or 0.0, worst) if np.isfinite(worst) else self._worst
            if not np.isfinite(worst):
                self._errors["not_finite"] += 1
            self._own_ns.append(run_ns)
            self._its_ns.append(seen.run_ns)


def _median_ms(durations_ns: collections.deque[int]) -> float | None:
    return statistics.median(sorted(durations_ns)) / 1e6 if durations_ns else None
