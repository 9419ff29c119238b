"""A fleet on the real wire: what a controller and its broker take as devices grow.

Wall times are of a machine that does other things too, so shares and milliseconds of processor
time are what to compare; the load is written beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from controller.simulator import seed, wire
from controller.simulator.traits import SCENARIOS
from controller.simulator.wire import Progress
from fitment.core import plain

QUIET = replace(SCENARIOS["good-release"], silent=0.0)  # a silent one holds its wave to the end
PACE = 4.0


def measure(sizes: tuple[int, ...], say: Callable[[str], None]) -> dict[str, Any]:
    """One good rollout for each size, telemetry of each device every 10 s."""
    found: dict[str, Any] = {}
    for size in sizes:
        driven = wire.Wire(pace=PACE, switched_on_per_s=min(200.0, size / 5), settle_s=30.0)
        before = os.getloadavg()[0]
        result = wire.simulate(seed.Fleet(devices=size, scenario=QUIET), driven, _Told(say))
        row = plain.to_plain(result)
        del row["gates"]
        found[str(size)] = {**row, "load_before": before, "load_after": os.getloadavg()[0]}
        say(f"{size} devices: {found[str(size)]}")
    return found


class _Told:
    """A line whenever something else is done."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._what = ""

    def __call__(self, progress: Progress) -> None:
        if progress.what != self._what:
            self._what = progress.what
            self._say(f"{progress.devices} devices: {progress.what}")
