"""Finding the energy meter of a device, whatever it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.sensors import rails
from agent.sensors.meter import Clock, EnergyWindow, Meter, Unavailable
from agent.sysfs import DiskTree, Run, run_command

__all__ = ["EnergyWindow", "Meter", "Unavailable", "find_meter"]

_SOURCES: tuple[tuple[str, Callable[[rails.Machine], Meter | str]], ...] = (
    ("ina3221", rails.ina3221),  # the whole board comes first,
    ("rapl", rails.rapl),  # then the processor package,
    ("hwmon", rails.hwmon),  # then a rail,
    ("pmic", rails.pi_pmic),  # then an estimate of the board,
    ("battery", rails.battery),  # then a slow gauge over the whole device
)


def find_meter(
    root: Path | str = "/", run: Run = run_command, *, clock: Clock = time.monotonic
) -> Meter | Unavailable:
    """The best meter below ``root``, or why there is none.

    ``run`` starts vendor tools; ``clock`` gives monotonic seconds.
    """
    machine = rails.Machine(tree=DiskTree(root), run=run, clock=clock)
    tried: list[tuple[str, str]] = []
    for name, look in _SOURCES:
        found = look(machine)
        if isinstance(found, str):
            tried.append((name, found))
            continue
        reason = found.available()
        if not reason:
            return found
        tried.append((name, reason))
    return Unavailable(reason="; ".join(reason for _, reason in tried), tried=tuple(tried))
