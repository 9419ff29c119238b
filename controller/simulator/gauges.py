"""What the processes of a run take, from outside: ``/proc`` and the controller's ``/metrics``."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from controller.demo.processes import memory_bytes

_TICK_S = os.sysconf("SC_CLK_TCK")
_TICKS = "fitment_loop_tick_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One moment."""

    at: float  # monotonic
    controller_cpu_s: float
    controller_rss: int  # bytes
    broker_cpu_s: float
    broker_rss: int
    own_cpu_s: float
    ticks: float = 0.0
    ticks_s: float = 0.0
    ticks_cpu_s: float = 0.0
    tick_buckets: dict[float, float] = field(default_factory=dict)  # bound to ticks within it
    rows: float = 0.0  # of telemetry, ever stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """What happened between two readings."""

    seconds: float
    controller_cpu_share: float  # of one core
    broker_cpu_share: float
    own_cpu_share: float
    tick_ms: float  # mean of the loop's ticks, by the controller's own clock
    tick_cpu_ms: float  # of processor time, mean
    tick_most_ms: float  # no tick took longer than this bound
    ticks: int
    rows_per_s: float

    @classmethod
    def of(cls, one: Reading, other: Reading) -> Between:
        """From one to the other."""
        seconds = max(1e-9, other.at - one.at)
        ticks = other.ticks - one.ticks
        grown = {b: n - one.tick_buckets.get(b, 0.0) for b, n in other.tick_buckets.items()}
        within = [bound for bound, count in sorted(grown.items()) if count >= ticks]
        return cls(
            seconds=seconds,
            controller_cpu_share=(other.controller_cpu_s - one.controller_cpu_s) / seconds,
            broker_cpu_share=(other.broker_cpu_s - one.broker_cpu_s) / seconds,
            own_cpu_share=(other.own_cpu_s - one.own_cpu_s) / seconds,
            tick_ms=1000 * (other.ticks_s - one.ticks_s) / ticks if ticks else 0.0,
            tick_cpu_ms=1000 * (other.ticks_cpu_s - one.ticks_cpu_s) / ticks if ticks else 0.0,
            tick_most_ms=1000 * (within[0] if within else float("inf")),
            ticks=int(ticks), rows_per_s=(other.rows - one.rows) / seconds,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Where to read."""

    controller: int  # process id
    metrics: str  # URL
    token: str

    def broker(self) -> int:
        """Process id of the mosquitto that the controller started; 0: there is none."""
        for child in children(self.controller):
            with contextlib.suppress(OSError):
                if "mosquitto" in Path(f"/proc/{child}/comm").read_text():
                    return child
        return 0

    def read(self) -> Reading:
        """All of it now."""
        broker, told = self.broker(), self._told()
        return Reading(
            at=time.monotonic(), controller_cpu_s=cpu_s(self.controller),
            controller_rss=memory_bytes(self.controller).get("rss", 0),
            broker_cpu_s=cpu_s(broker), broker_rss=memory_bytes(broker).get("rss", 0),
            own_cpu_s=cpu_s(os.getpid()), ticks=told.get(f"{_TICKS}_count", 0.0),
            ticks_s=told.get(f"{_TICKS}_sum", 0.0),
            ticks_cpu_s=told.get("fitment_loop_tick_cpu_seconds_total", 0.0),
            tick_buckets=_buckets(told),
            rows=told.get("fitment_telemetry_rows_total", 0.0),
        )  # fmt: skip

    def _told(self) -> dict[str, float]:
        answer = httpx.get(
            self.metrics, headers={"authorization": f"Bearer {self.token}"}, timeout=60.0,
            trust_env=False,
        )  # fmt: skip
        answer.raise_for_status()
        lines = [line.rsplit(" ", 1) for line in answer.text.splitlines() if line[:1] != "#"]
        return {name: float(value) for name, value in lines}


def children(pid: int) -> list[int]:
    """Processes that a process started and that still run."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            found |= {int(number) for number in path.read_text().split()}
    return sorted(found)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, of all its threads; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK_S


def _buckets(told: dict[str, float]) -> dict[float, float]:
    begin = f'{_TICKS}_bucket{{le="'
    pairs = ((name.removeprefix(begin)[:-2], n) for name, n in told.items() if begin in name)
    return {float(bound.replace("+Inf", "inf")): number for bound, number in pairs}
