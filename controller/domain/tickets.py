"""Service tickets: one device that does worse than its kind, for somebody with a screwdriver.

A cause is named only where a sensor of the device shows it beside its own first days, and beside
its peers where the weather could do it. Where no sensor does, the ticket says that none does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.domain.fleet import Cohort
from controller.domain.levels import Alone, percent


class TicketState(enum.Enum):
    """Where a ticket stands."""

    OPEN = "open"  # nobody has looked at it
    ACKNOWLEDGED = "acknowledged"  # somebody has
    CLOSED = "closed"  # mended, given up, or the device does as its peers again


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One device, one model, and what is wrong with it."""

    id: str
    device: str
    model: str  # model version id
    slot: str
    variant: str  # digest
    cohort: Cohort
    opened_at: float
    state: TicketState = TicketState.OPEN
    summary: str = ""
    causes: tuple[str, ...] = ()  # what sensors show; empty: none shows anything
    numbers: Mapping[str, float] = field(default_factory=dict)
    updated_at: float = 0.0  # when the numbers were last taken
    acknowledged_by: str = ""
    closed_at: float = 0.0
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What a device's sensors said of one span, medians; None where they said nothing."""

    temperature_c: float | None = None
    cpu_mhz: float | None = None
    cpu_pressure_percent: float | None = None
    memory_pressure_percent: float | None = None
    throttled_share: float | None = None  # of samples with a cooling device that cut clocks
    ecc_corrected: float | None = None  # the most of a counter


WARMER_C = 5.0
"""Above its peers' change before heat is named."""
CLOCK_SHARE = 0.1
PRESSURE_POINTS = 15.0
THROTTLED_SHARE = 0.1
NO_CAUSE = "no sensor of the device says why"

QUANTITIES: Mapping[str, str] = {
    "temperature_c": "temperature_c",
    "cpu_mhz": "cpu_mhz",
    "cpu_pressure_percent": "cpu_pressure_avg10_percent",
    "memory_pressure_percent": "memory_pressure_avg10_percent",
    "throttled_share": "throttled",
    "ecc_corrected": "ecc_corrected_count",
}
"""Field of `Sensors` to the column of telemetry that fills it."""


def causes(before: Sensors, now: Sensors, peers: Sensors, peers_before: Sensors) -> tuple[str, ...]:
    """What sensors show of a device that its baseline, and its peers' change, do not explain."""
    found = [
        _heat(before, now, _change(peers_before.temperature_c, peers.temperature_c)),
        _clocks(before, now),
        _pressure("the processor", before.cpu_pressure_percent, now.cpu_pressure_percent),
        _pressure("memory", before.memory_pressure_percent, now.memory_pressure_percent),
        _throttled(before, now),
        _ecc(before, now),
    ]
    return tuple(words for words in found if words)


def _change(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else now - before


def _heat(before: Sensors, now: Sensors, peers: float | None) -> str:
    own = _change(before.temperature_c, now.temperature_c)
    if own is None or own - (peers or 0.0) < WARMER_C:
        return ""
    beside = "" if peers is None else f", its peers by {peers:+.0f} °C"
    return (
        f"cooling: {now.temperature_c:.0f} °C, was {before.temperature_c:.0f} °C"
        f" ({own:+.0f} °C{beside})"
    )


def _clocks(before: Sensors, now: Sensors) -> str:
    if not before.cpu_mhz or now.cpu_mhz is None:
        return ""
    share = now.cpu_mhz / before.cpu_mhz - 1.0
    if share > -CLOCK_SHARE:
        return ""
    return f"clocks: {now.cpu_mhz:.0f} MHz, were {before.cpu_mhz:.0f} MHz ({100 * share:+.0f} %)"


def _pressure(of: str, before: float | None, now: float | None) -> str:
    own = _change(before, now)
    if own is None or own < PRESSURE_POINTS:
        return ""
    return f"pressure on {of}: {now:.0f} %, was {before:.0f} %"


def _throttled(before: Sensors, now: Sensors) -> str:
    own = _change(before.throttled_share, now.throttled_share)
    if own is None or own < THROTTLED_SHARE:
        return ""
    was = 100 * (before.throttled_share or 0.0)
    return f"throttling: {100 * (now.throttled_share or 0.0):.0f} % of the time, was {was:.0f} %"


def _ecc(before: Sensors, now: Sensors) -> str:
    own = _change(before.ecc_corrected, now.ecc_corrected)
    return "" if own is None or own <= 0 else f"memory: {own:.0f} errors corrected since then"


def summary(found: Alone, base_ms: float, level_ms: float) -> str:
    """What is wrong, in numbers."""
    words = f"{level_ms:.3g} ms, was {base_ms:.3g} ms ({percent(found.own)})"
    if found.peers < 1:
        return f"{words}; no other device to compare with, so it may be all of its kind"
    return f"{words}; its {found.peers} peers changed by {percent(found.shared)}"


OPENS: Mapping[TicketState, frozenset[TicketState]] = {
    TicketState.OPEN: frozenset({TicketState.ACKNOWLEDGED, TicketState.CLOSED}),
    TicketState.ACKNOWLEDGED: frozenset({TicketState.CLOSED}),
    TicketState.CLOSED: frozenset(),
}
"""Which state may follow which."""
