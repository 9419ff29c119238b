"""One look at everything that decides whether a benchmark may be believed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from agent.sensors.clocks import read_clocks
from agent.sensors.ecc import read_corrected
from agent.sensors.pressure import read_memory_pressure, read_pressure
from agent.sensors.thermal import read_pi_throttled, read_thermal
from agent.sysfs import DiskTree, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Readings at one moment; None where the device has no such sensor."""

    psi_avg10: float | None = None  # percent
    psi_total_us: int | None = None
    freq_khz: int | None = None
    freq_max_khz: int | None = None
    temperature_c: float | None = None
    cooling_active: bool | None = None
    throttle_count: int | None = None
    throttle_flags: int | None = None  # Raspberry Pi: bits of get_throttled
    memory_psi_avg10: float | None = None  # percent
    ecc_corrected: int | None = None  # memory errors since boot, of all controllers

    def numbers(self) -> dict[str, float]:
        """The readings that exist, as numbers, for a measurement's ``conditions``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: float(value) for name, value in values.items() if value is not None}


def snapshot(root: Path | str = "/", run: Run | None = None) -> Conditions:
    """Read all conditions below ``root``.

    ``run`` is asked for vendor tools (the Raspberry Pi's firmware); without it they are left out,
    because starting a process in the middle of a benchmark disturbs it.
    """
    tree = DiskTree(root)
    pressure, clocks, thermal = read_pressure(tree), read_clocks(tree), read_thermal(tree)
    throttled = read_pi_throttled(run) if run is not None else None
    return Conditions(
        psi_avg10=pressure.avg10,
        psi_total_us=pressure.total_us,
        freq_khz=clocks.current_khz,
        freq_max_khz=clocks.maximum_khz,
        temperature_c=thermal.temperature_c,
        cooling_active=thermal.cooling_active,
        throttle_count=thermal.throttle_count,
        throttle_flags=throttled.flags if throttled else None,
        memory_psi_avg10=read_memory_pressure(tree).avg10,
        ecc_corrected=read_corrected(tree),
    )


def throttle_reasons(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """Signs that clocks were cut between two snapshots, as sentences; empty when there are none."""
    reasons: list[str] = []
    if after.cooling_active or before.cooling_active:
        reasons.append("a cooling device lowers the clocks")
    if before.throttle_count is not None and after.throttle_count is not None:
        events = after.throttle_count - before.throttle_count
        if events > 0:
            reasons.append(f"{events} thermal throttle events")
    if after.throttle_flags is not None:
        # Only the Pi's bits of now count: the sticky ones may be from last week.
        risen = after.throttle_flags & ~(before.throttle_flags or 0)
        if after.throttle_flags & 0xF or risen & 0xF0000:
            reasons.append(f"the firmware reports throttling (0x{after.throttle_flags:x})")
    return tuple(reasons)
