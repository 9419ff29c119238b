"""Energy of one run of a model, where the device has a meter.

    energy per run = (joules over a window of runs - idle watts * seconds) / runs

The window belongs to the candidate alone: an interleaved one would hold the baseline's joules.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.sensors import EnergyWindow, Meter, Unavailable
from agent.sensors.meter import MIN_SENSOR_SAMPLES
from agent.workers.timing import Stream
from fitment.core.measurement import Energy, ReadingStatus

_MIN_WINDOW_S = 1.0
_SPARE_READINGS = 1.25  # a sensor may be a little late


def measure(meter: Meter | Unavailable, stream: Stream, *, max_seconds: float) -> Energy:
    """Idle for a while, then run for a while, and take the difference.

    A window that the meter cannot fill within ``max_seconds`` gives no value, and says why.
    """
    if isinstance(meter, Unavailable):
        return Energy(status=ReadingStatus.UNAVAILABLE, reason=meter.reason)
    window_s = max(_MIN_WINDOW_S, MIN_SENSOR_SAMPLES * _SPARE_READINGS * meter.interval_s)
    if window_s > max_seconds:
        return Energy(
            status=ReadingStatus.UNAVAILABLE,
            method=meter.method,
            scope=meter.scope,
            reason=f"{meter.method} needs {window_s:.0f} s of runs, the plan allows "
            f"{max_seconds:g} s",
        )
    nap_s = min(meter.interval_s, 0.05)
    idle = _window(meter, window_s, lambda: time.sleep(nap_s))
    before = len(stream.durations_ns)
    busy = _window(meter, window_s, lambda: stream.run(stream.block_runs))
    runs = len(stream.durations_ns) - before
    stream.forget(before)  # latencies come from the interleaved part alone
    return per_run(idle, busy, runs=runs)


def per_run(idle: EnergyWindow, busy: EnergyWindow, *, runs: int) -> Energy:
    """Millijoules a run above idle."""
    if idle.mean_w is None or busy.joules is None:
        return _none(busy, busy.reason or idle.reason)
    net_j = busy.joules - idle.mean_w * busy.seconds
    if net_j <= 0:
        return _none(busy, f"no power above the {idle.mean_w:.2f} W of idling was seen")
    return Energy(
        status=busy.status,
        value_mj=net_j / runs * 1e3,
        method=busy.method,
        scope=busy.scope,
        baseline_w=idle.mean_w,
        samples=busy.samples,
        sample_hz=_rate(busy),
    )


def _window(meter: Meter, seconds: float, work: Callable[[], object]) -> EnergyWindow:
    meter.start()
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        work()
        meter.sample()
    return meter.stop()


def _none(window: EnergyWindow, reason: str) -> Energy:
    return Energy(
        status=ReadingStatus.UNAVAILABLE,
        method=window.method,
        scope=window.scope,
        samples=window.samples,
        sample_hz=_rate(window),
        reason=reason,
    )


def _rate(window: EnergyWindow) -> float | None:
    return window.samples / window.seconds if window.seconds > 0 else None
