"""What the ladder goes by: heat, the battery's charge, and memory that is short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.domain.ladder import Readings
from agent.sensors.pressure import read_memory_pressure
from agent.sensors.thermal import Thermal, read_pi_flags, read_thermal, read_throttle_point
from agent.sysfs import DiskTree, Tree, find, integer, text

_PI_CUT = 0b1110  # frequency capped, throttled, soft temperature limit; not the supply's voltage


class Strain:
    """Reads below one root; remembers the throttle counters, of which only a rise tells."""

    def __init__(self) -> None:
        self._events: int | None = None

    def read(self, root: Path | str = "/", *, throttle_c: float | None = None) -> Readings:
        """All readings of now; None for what the device does not say.

        Args:
            root: of the device's files.
            throttle_c: where clocks are cut, if that is known better than the kernel knows it.
        """
        tree = DiskTree(root)
        thermal = read_thermal(tree)
        if throttle_c is None:
            throttle_c = read_throttle_point(tree, thermal.zone)
        percent, discharging = read_battery(tree)
        return Readings(
            temperature_c=thermal.temperature_c, throttle_c=throttle_c,
            throttled=self._throttled(tree, thermal), battery_percent=percent,
            discharging=discharging, memory_stall_percent=read_memory_pressure(tree).avg10,
            memory_available_share=read_available_share(tree),
        )  # fmt: skip

    def _throttled(self, tree: Tree, thermal: Thermal) -> bool | None:
        flags = read_pi_flags(tree)
        before, self._events = self._events, thermal.throttle_count
        signs = [
            thermal.cooling_active,
            None if flags is None else bool(flags.flags & _PI_CUT),
            None if before is None or self._events is None else self._events > before,
        ]
        known = [sign for sign in signs if sign is not None]
        return any(known) if known else None


def read_battery(tree: Tree) -> tuple[float | None, bool | None]:
    """Percent left and whether it discharges, of the device's own battery; None: not said."""
    for folder in find(tree, "sys/class/power_supply/*"):
        own = text(tree, f"{folder}/scope") != "Device"  # a mouse has a battery as well
        if text(tree, f"{folder}/type") != "Battery" or not own:
            continue
        percent, status = integer(tree, f"{folder}/capacity"), text(tree, f"{folder}/status")
        plausible = percent is not None and 0 <= percent <= 100
        said = None if status in (None, "", "Unknown") else status == "Discharging"
        return (float(percent) if percent is not None and plausible else None), said
    return None, None


def read_available_share(tree: Tree) -> float | None:
    """``MemAvailable`` of ``MemTotal``, 0..1."""
    sizes = {}
    for line in (text(tree, "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split()
        if fields and fields[0].isdigit():
            sizes[name] = int(fields[0])
    total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    return None if not total or available is None else min(1.0, available / total)


def with_throttle_point(readings: Readings, throttle_c: float | None) -> Readings:
    """The same for a slot whose order says where this class of device cuts its clocks."""
    if throttle_c is None or readings.throttle_c is not None:
        return readings
    return replace(readings, throttle_c=throttle_c)
