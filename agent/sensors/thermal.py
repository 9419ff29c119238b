"""Heat: zones, cooling devices, throttle counters, and the Raspberry Pi's throttle flags."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.sysfs import Run, Tree, find, integer, text

_PROCESSOR_ZONE = re.compile(r"cpu|soc|pkg|package|core|center|tj", re.IGNORECASE)
_CLOCK_COOLING = re.compile(r"cpufreq|devfreq|processor|thermal-cpu|thermal-dev", re.IGNORECASE)
_PLAUSIBLE_C = (-40.0, 150.0)  # an unpowered zone answers -256 or 0x7fffffff


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """What the thermal framework says; None where it says nothing."""

    temperature_c: float | None  # hottest processor zone, or hottest zone
    zone: str  # its type
    cooling_active: bool | None  # a device that lowers clocks is at work; fans do not count
    throttle_count: int | None  # x86: events since boot, summed over cores and packages


@dataclass(frozen=True, slots=True, kw_only=True)
class PiThrottled:
    """``vcgencmd get_throttled``, now and since boot."""

    flags: int

    @property
    def now(self) -> tuple[str, ...]:
        """What holds at this moment."""
        return tuple(name for bit, name in enumerate(_PI_BITS) if self.flags >> bit & 1)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """What has happened at least once since boot (bits 16 to 19)."""
        return tuple(name for bit, name in enumerate(_PI_BITS) if self.flags >> (16 + bit) & 1)


_PI_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def read_thermal(tree: Tree) -> Thermal:
    """Read zones, cooling devices and counters."""
    zone, temperature = _hottest(tree)
    return Thermal(
        temperature_c=temperature,
        zone=zone,
        cooling_active=_cooling(tree),
        throttle_count=_throttle_count(tree),
    )


def read_throttle_point(tree: Tree, zone: str) -> float | None:
    """Degrees at which the kernel begins to lower clocks in zones of this type, where it says so.

    That is the lowest passive trip point, else the lowest hot one; a critical one is an end, and
    an active one starts a fan.
    """
    points: dict[str, list[float]] = {"passive": [], "hot": []}
    for folder in find(tree, "sys/class/thermal/thermal_zone*"):
        if text(tree, f"{folder}/type") != zone:
            continue
        for path in find(tree, f"{folder}/trip_point_*_type"):
            milli = integer(tree, path.removesuffix("_type") + "_temp")
            kind = text(tree, path) or ""
            if kind in points and milli is not None and 0 < milli / 1000 < _PLAUSIBLE_C[1]:
                points[kind].append(milli / 1000)
    return min(points["passive"] or points["hot"], default=None)


def read_pi_throttled(run: Run) -> PiThrottled | None:
    """Ask the Raspberry Pi's firmware; None where there is none."""
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", run(("vcgencmd", "get_throttled")) or "")
    return PiThrottled(flags=int(found.group(1), 16)) if found else None


def read_pi_flags(tree: Tree) -> PiThrottled | None:
    """The same from the firmware's file, where the kernel has one: no process is started."""
    found = text(tree, "sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        return None if found is None else PiThrottled(flags=int(found, 16))
    except ValueError:
        return None


def _hottest(tree: Tree) -> tuple[str, float | None]:
    readings: list[tuple[bool, float, str]] = []
    for folder in find(tree, "sys/class/thermal/thermal_zone*"):
        milli = integer(tree, f"{folder}/temp")
        name = text(tree, f"{folder}/type") or ""
        if milli is not None and _PLAUSIBLE_C[0] < milli / 1000 < _PLAUSIBLE_C[1]:
            readings.append((bool(_PROCESSOR_ZONE.search(name)), milli / 1000, name))
    if not readings:
        return "", None
    _, temperature, name = max(readings)
    return name, temperature


def _cooling(tree: Tree) -> bool | None:
    states = [
        integer(tree, f"{folder}/cur_state")
        for folder in find(tree, "sys/class/thermal/cooling_device*")
        if _CLOCK_COOLING.search(text(tree, f"{folder}/type") or "")
    ]
    known = [state for state in states if state is not None]
    return any(state > 0 for state in known) if known else None


def _throttle_count(tree: Tree) -> int | None:
    pattern = "sys/devices/system/cpu/cpu*/thermal_throttle/{}_throttle_count"
    paths = find(tree, pattern.format("core")) + find(tree, pattern.format("package"))
    counts = [count for count in (integer(tree, path) for path in paths) if count is not None]
    return sum(counts) if counts else None
