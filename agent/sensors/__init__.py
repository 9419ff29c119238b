"""Readings of a device: pressure, clocks, heat, energy, memory. Every reader takes a root."""

from __future__ import annotations

from agent.sensors.conditions import Conditions, snapshot, throttle_reasons
from agent.sensors.energy import find_meter
from agent.sensors.meter import EnergyWindow, Meter, Unavailable
from agent.sensors.process import ProcessMemory, process_memory, written_bytes
from agent.sensors.strain import Strain, with_throttle_point

__all__ = [
    "Conditions",
    "EnergyWindow",
    "Meter",
    "ProcessMemory",
    "Strain",
    "Unavailable",
    "find_meter",
    "process_memory",
    "snapshot",
    "throttle_reasons",
    "with_throttle_point",
    "written_bytes",
]
