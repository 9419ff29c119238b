"""``fitment simulate --wire``: progress while it runs, and the numbers afterwards."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from controller.cli.common import print_facts
from controller.simulator.result import WireResult
from controller.simulator.wire import Progress

LINE_EVERY_S = 10.0
"""Where there is no terminal."""


class Shown:
    """One line on stderr that changes; where that is no terminal, one now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said_at = 0.0
        self._what = ""
        self._last = (0.0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._terminal and self._what:
            print(file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._terminal:
            if progress.what == self._what and now - self._said_at < LINE_EVERY_S:
                return
            print(self._line(progress, now), file=sys.stderr, flush=True)
        else:
            print(f"\r\033[K{self._line(progress, now)}", end="", file=sys.stderr, flush=True)
        self._said_at, self._what = now, progress.what

    def _line(self, progress: Progress, now: float) -> str:
        counts = progress.counts
        if progress.done:
            return f"{progress.what} {progress.done} of {progress.devices}"
        at, sent = self._last
        rate = (counts.taken - sent) / (now - at) if at else 0.0
        self._last = (now, counts.taken)
        parts = [
            progress.what, f"connected {counts.up} of {progress.devices}",
            f"told {counts.asked}", f"committed {counts.committed}",
            f"failed {counts.ended - counts.committed}", f"{rate:.0f} messages/s",
        ]  # fmt: skip
        made = progress.rollout
        if made is not None:
            parts.append(f"wave {made.wave + 1} of {len(made.waves)}, {made.state.value}")
        return " · ".join(parts)


def show(result: WireResult) -> None:
    """The numbers for people."""
    exposed = "-" if result.exposed_at_halt is None else str(result.exposed_at_halt)
    acks = "-" if result.ack_p50_ms is None or result.ack_p95_ms is None else (
        f"{result.ack_p50_ms:.0f} ms median, {result.ack_p95_ms:.0f} ms at 95 %"
    )  # fmt: skip
    print_facts(
        {
            "scenario": f"{result.scenario}, seed {result.seed}; hardware modelled, wire real",
            "devices": f"{result.devices}, all there after {result.connect_s:.0f} s",
            "rollout": f"{result.state} after {result.seconds:.0f} s (pace {result.pace:g})",
            "because": result.reason,
            "committed": f"{result.committed}, failed {result.failed}, open {result.still_open}",
            "exposed": f"{exposed} when it halted, at most {result.exposure_bound}",
            "messages": f"{result.messages_per_s:.0f} a second from devices",
            "stored": f"{result.telemetry_rows_per_s:.0f} samples a second; on disk after {acks}",
            "controller": (
                f"{100 * result.controller_cpu_share:.0f} % of a core"
                f" ({100 * result.controller_cpu_share_quiet:.0f} % before the rollout),"
                f" {result.controller_rss_bytes_per_device / 1024:.0f} KiB a device"
            ),
            "a tick": (
                f"{result.tick_ms:.1f} ms, {result.tick_cpu_ms:.1f} ms of it processor time"
                f" ({result.tick_quiet_ms:.1f} and {result.tick_quiet_cpu_ms:.1f} ms before the"
                " rollout)"
            ),
            "broker": f"{100 * result.broker_cpu_share:.0f} % of a core,"
            f" {result.broker_rss_bytes_per_device / 1024:.0f} KiB a device",
            "simulator": f"{100 * result.simulator_cpu_share:.0f} % of a core",
            "took": f"{result.wall_seconds:.0f} s",
        }
    )
