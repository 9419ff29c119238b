"""Timing runs of a session, and watching what else happened meanwhile."""

from __future__ import annotations

import array
import contextlib
import gc
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.jobs import Setting
from agent.sensors import Conditions, snapshot
from agent.workers import statistics
from agent.workers.runtimes.base import Array, Session
from agent.workers.verdicts import Signals

_WARMUP_WINDOW = 10  # runs
_WARMUP_WITHIN = 0.02  # of each other, the medians of the last two windows
_BLOCK_S = 0.02  # of one block: caches are warm for most of it, drift between blocks is small
_LOOK_INTERVAL_S = 0.5  # between readings of clocks and temperature


@dataclass(slots=True, kw_only=True)
class Stream:
    """One model, fed in turn with prepared inputs, and the durations of its runs."""

    session: Session
    feeds: Sequence[Sequence[Array]]
    durations_ns: array.array[int] = field(default_factory=lambda: array.array("q"))
    warm: bool = False
    block_runs: int = 1  # runs of one block; `warm_up` finds how many
    total_ns: int = 0
    _next: int = 0

    def run(self, count: int) -> None:
        """Time ``count`` runs and remember them."""
        raw, feeds, clock = self.session.raw, self.feeds, time.perf_counter_ns
        durations = []
        for index in range(self._next, self._next + count):
            feed = feeds[index % len(feeds)]
            started = clock()
            raw(feed)
            durations.append(clock() - started)
        self._next += count
        self.durations_ns.extend(durations)
        self.total_ns += sum(durations)

    def forget(self, since: int = 0) -> None:
        """Drop the durations from index ``since`` on."""
        self.total_ns -= sum(self.durations_ns[since:])
        del self.durations_ns[since:]

    @property
    def seconds(self) -> float:
        """Time spent in runs."""
        return self.total_ns / 1e9


def warm_up(stream: Stream, *, max_seconds: float) -> None:
    """Run until two windows agree or time is up, and choose the stream's ``block_runs``.

    What it timed is forgotten. ``stream.warm`` says whether the windows agreed.
    """
    started = time.monotonic()
    while time.monotonic() - started < max_seconds:
        stream.run(_WARMUP_WINDOW)
        agree = statistics.windows_agree(
            stream.durations_ns, window=_WARMUP_WINDOW, within=_WARMUP_WITHIN
        )
        if agree:
            stream.warm = True
            break
    if not stream.durations_ns:  # no time at all was granted
        stream.run(1)
    typical_s = statistics.median(sorted(stream.durations_ns[-_WARMUP_WINDOW:])) / 1e9
    stream.block_runs = max(1, round(_BLOCK_S / max(typical_s, 1e-9)))
    stream.forget()


class Watch:
    """Signals of contention and heat, gathered around blocks of runs.

    Only time inside `block` counts for the processor's share, so that our own bookkeeping does
    not. With more than one thread the calling one waits for the others, so its own
    processor share says nothing and is left out.
    """

    def __init__(self, setting: Setting) -> None:
        self._root = Path(setting.root)
        self._single = setting.options.threads == 1
        self._translated_on = setting.translated_on
        self._started_s = time.monotonic()
        self._wall_ns = 0
        self._cpu_ns = 0
        self._preemptions = 0
        self._looks: list[Conditions] = [snapshot(self._root)]
        self._looked_s = self._started_s

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        """Around runs; the collector waits until they are over."""
        collecting = gc.isenabled()
        gc.disable()
        switches, wall, cpu = _preemptions(), time.perf_counter_ns(), time.thread_time_ns()
        try:
            yield
        finally:
            self._cpu_ns += time.thread_time_ns() - cpu
            self._wall_ns += time.perf_counter_ns() - wall
            self._preemptions += _preemptions() - switches
            if collecting:
                gc.enable()
        self._look()

    def signals(self) -> Signals:
        """Everything since the watch began."""
        self._looks.append(snapshot(self._root))
        elapsed_s = time.monotonic() - self._started_s
        wall_s = self._wall_ns / 1e9
        return Signals(
            wall_s=wall_s,
            cpu_share=self._cpu_ns / self._wall_ns if self._single and self._wall_ns else None,
            pressure=_pressure(self._looks[0], self._looks[-1], elapsed_s),
            preemptions_per_s=self._preemptions / wall_s if _COUNTS_SWITCHES and wall_s else None,
            conditions=tuple(self._looks),
            translated_on=self._translated_on,
        )

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_INTERVAL_S:
            self._looked_s = now
            self._looks.append(snapshot(self._root))


_COUNTS_SWITCHES = sys.platform.startswith("linux")


def _preemptions() -> int:
    """Involuntary context switches of this thread so far; 0 where the system does not count."""
    if not _COUNTS_SWITCHES:
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _pressure(before: Conditions, after: Conditions, elapsed_s: float) -> float | None:
    if before.psi_total_us is None or after.psi_total_us is None or elapsed_s <= 0:
        return None
    return min(1.0, max(0.0, (after.psi_total_us - before.psi_total_us) / 1e6 / elapsed_s))
