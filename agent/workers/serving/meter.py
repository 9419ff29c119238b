"""What serving costs: counts, latencies, batches. Everything here may be called by any thread."""

from __future__ import annotations

import bisect
import collections
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.workers import statistics

_REMEMBERED: Final = 1024  # latencies, for exact percentiles of the newest
BOUNDS_MS: Final = (
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
)  # fmt: skip
"""Upper bounds of the latency histogram's bins; one more bin takes what is slower."""


@dataclass(slots=True)
class Duration:
    """A count and the time it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count ``count`` times ``ns``."""
        self.count += count
        self.ns += ns * count


@dataclass(slots=True)
class Counts:
    """Since the model was loaded. Latency: from a request's arrival here to its answer."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)  # each request with the whole of its run
    samples: int = 0
    runs: int = 0
    batches: dict[int, Duration] = field(default_factory=dict)  # samples of a run -> runs
    bins: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    last_unix_ms: int = 0


class Meter:
    """Counts of one loaded model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._newest_ns: collections.deque[int] = collections.deque(maxlen=_REMEMBERED)

    def answered(self, *, latency_ns: int, queue_ns: int, run_ns: int) -> None:
        """A request has its answer."""
        with self._lock:
            self._newest_ns.append(latency_ns)
            self._counts.success.add(latency_ns)
            self._counts.queue.add(queue_ns)
            self._counts.infer.add(run_ns)
            self._counts.bins[bisect.bisect_left(BOUNDS_MS, latency_ns / 1e6)] += 1
            self._counts.last_unix_ms = time.time_ns() // 1_000_000

    def ran(self, rows: int, run_ns: int) -> None:
        """The model ran on ``rows`` samples."""
        with self._lock:
            self._counts.samples += rows
            self._counts.runs += 1
            self._counts.batches.setdefault(rows, Duration()).add(run_ns)

    def failed(self) -> None:
        """A request was refused, or its run failed; its time is not counted."""
        with self._lock:
            self._counts.fail.add(0)

    def counts(self) -> Counts:
        """A copy, whole at one moment."""
        with self._lock:
            now = self._counts
            return Counts(
                success=Duration(now.success.count, now.success.ns),
                fail=Duration(now.fail.count, now.fail.ns),
                queue=Duration(now.queue.count, now.queue.ns),
                infer=Duration(now.infer.count, now.infer.ns),
                samples=now.samples, runs=now.runs, last_unix_ms=now.last_unix_ms,
                batches={rows: Duration(d.count, d.ns) for rows, d in now.batches.items()},
                bins=list(now.bins),
            )  # fmt: skip

    def latency(self) -> Mapping[str, Any] | None:
        """Percentiles of the newest requests; null where there are too few for one."""
        with self._lock:
            newest = sorted(self._newest_ns)
        if not newest:
            return None
        found = statistics.summarise(newest)
        return {
            "count": found.count,
            "p50_ms": found.p50_ms,
            "p95_ms": found.p95_ms,
            "p99_ms": found.p99_ms,
            "max_ms": newest[-1] / 1e6,
        }

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        counts = self.counts()
        return {
            "samples": counts.samples,
            "runs": counts.runs,
            "batch_sizes": {str(rows): d.count for rows, d in sorted(counts.batches.items())},
            "latency_histogram": {"bounds_ms": list(BOUNDS_MS), "counts": counts.bins},
            "queue_mean_ms": _mean_ms(counts.queue),
            "run_mean_ms": _mean_ms(counts.infer),
        }


def _mean_ms(duration: Duration) -> float | None:
    return duration.ns / duration.count / 1e6 if duration.count else None
