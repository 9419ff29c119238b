"""A fleet on the real wire: what a controller and its broker take as devices grow.

Wall times are of a machine that does other things too, so shares and milliseconds of processor
time are what to compare; the load is written beside them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controller.simulator import seed, wire
from controller.simulator.traits import SCENARIOS
from controller.simulator.wire import Progress
from fitment.core import plain

QUIET = replace(SCENARIOS["good-release"], silent=0.0)  # a silent one holds its wave to the end
STEADY = replace(QUIET, flaky=0.0)
MAINS = {"raspberry-pi-5": 0.5, "jetson-orin-nano": 0.3, "rk3588": 0.2}
"""Devices without batteries. One that goes away in the middle of a deployment holds its wave until
the deadline (225 s here): a run would show the plan's patience, not what a controller takes."""
PACE = 4.0
LOOK_S = 15.0


def measure(
    sizes: tuple[int, ...], say: Callable[[str], None], *, steady: bool = False
) -> dict[str, Any]:
    """One good rollout for each size, telemetry of each device every 10 s.

    ``steady``: of devices that stay connected and whose hardware has no battery.
    """
    scenario, mix = (STEADY, MAINS) if steady else (QUIET, None)
    found: dict[str, Any] = {}
    for size in sizes:
        driven = wire.Wire(pace=PACE, switched_on_per_s=min(200.0, size / 5), settle_s=30.0)
        before = os.getloadavg()[0]
        wanted = seed.Fleet(devices=size, scenario=scenario, mix=mix)
        result = wire.simulate(wanted, driven, _Told(say))
        row = plain.to_plain(result)
        del row["gates"]
        found[str(size)] = {**row, "load_before": before, "load_after": os.getloadavg()[0]}
        say(f"{size} devices: {found[str(size)]}")
    return found


class _Told:
    """A line whenever something else is done, and how far it is every few seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._what, self._at = "", 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.what == self._what and now - self._at < LOOK_S:
            return
        self._what, self._at = progress.what, now
        counts, made = progress.counts, progress.rollout
        how = f"{counts.up} connected, {counts.stored} batches stored" if counts.ups else ""
        if made is not None:
            how += f", wave {made.wave + 1}, {counts.committed} of {counts.ended} committed"
        self._say(f"{progress.devices} devices: {progress.what}" + (f" ({how})" if how else ""))
