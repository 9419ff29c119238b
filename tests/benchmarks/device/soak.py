"""The supervisor over MQTT: memory through a deployment and 10,000 telemetry batches, then at rest.

Everything is real: a controller with its broker, an agent as a process of its own, a deployment to
its commit. What is read is the kernel's word on the agent's process and what its journal holds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.device.alone import Alone
from tests.e2e.test_revert import STRICT, roll_out, workload

BATCHES = 10_000
BUSY_INTERVAL_S, IDLE_INTERVAL_S = 0.1, 10.0
LOOK_S = 4.0
HASTY = "tests.benchmarks.device.hasty"
SETTLE_S, IDLE_S = 30.0, 300.0
ROOT = Path(__file__).resolve().parents[3]


def measure(say: Callable[[str], None], *, batches: int = BATCHES) -> dict[str, Any]:
    """One device from its enrolment on; about 25 minutes for 10,000 batches."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        with Alone(folder, interval_s=BUSY_INTERVAL_S, agent=HASTY) as device:
            say("soak: a deployment")
            roll_out(device.env, workload(ROOT, folder / "model", "1.0.0", STRICT))
            committed = device.memory()
            say(f"soak: {batches} batches of telemetry")
            busy = _busy(device, batches, say)
            device.restart_controller(interval_s=IDLE_INTERVAL_S)
            say(f"soak: {IDLE_S:.0f} s of rest")
            idle = _idle(device)
    return {"link": "mqtt", "after_commit": committed, "busy": busy, "idle": idle}


def _busy(device: Alone, batches: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Looks every ten seconds until so many batches were made and are acknowledged."""
    first, _ = device.batches()
    began, cpu_before = time.monotonic(), device.cpu_s()[0]
    looks: list[dict[str, float]] = []
    made = waiting = 0
    while made < batches or waiting > 20:
        time.sleep(LOOK_S)
        latest, waiting = device.batches()
        made = latest - first
        looks.append({"batches": made, "waiting": waiting, **device.memory()})
        if len(looks) % 12 == 0:
            say(f"soak: {made} batches, {looks[-1]['anonymous_mib']:.1f} MiB anonymous")
    seconds = time.monotonic() - began
    return {
        "batches": made,
        "seconds": seconds,
        "cpu_percent": 100.0 * (device.cpu_s()[0] - cpu_before) / seconds,
        "waiting_most": max(look["waiting"] for look in looks),
        **{name: _course(looks, name) for name in ("anonymous_mib", "pss_mib")},
    }


def _course(looks: Sequence[dict[str, float]], name: str) -> dict[str, float]:
    """First and last tenth (medians), the most, and the slope over 10,000 batches."""
    values = [look[name] for look in looks]
    tenth = max(1, len(values) // 10)
    slope = statistics.linear_regression([look["batches"] for look in looks], values).slope
    return {
        "first_tenth": statistics.median(values[:tenth]),
        "last_tenth": statistics.median(values[-tenth:]),
        "most": max(values),
        "slope_per_10000": slope * 10_000,
    }


def _idle(device: Alone) -> dict[str, float]:
    """Nothing to do but a sample every ten seconds and a look at the device every minute."""
    time.sleep(SETTLE_S)
    own, children = device.cpu_s()
    began = time.monotonic()
    time.sleep(IDLE_S)
    seconds = time.monotonic() - began
    own_after, children_after = device.cpu_s()
    return {
        "seconds": seconds,
        "cpu_percent": 100.0 * (own_after - own) / seconds,
        "workers_cpu_percent": 100.0 * (children_after - children) / seconds,
        **device.memory(),
    }
