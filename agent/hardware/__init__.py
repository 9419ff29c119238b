"""What this device is: four facets, read from files below a root."""

from __future__ import annotations

from agent.hardware.boards import BoardError
from agent.hardware.debounce import Debouncer
from agent.hardware.metered import read_metering
from agent.hardware.reader import read_fingerprint
from agent.hardware.settings import HardwareSettings
from agent.hardware.zone import read_zone

__all__ = [
    "BoardError",
    "Debouncer",
    "HardwareSettings",
    "read_fingerprint",
    "read_metering",
    "read_zone",
]
