"""What a variant took on a device, kept to hold its successor against: a baseline of its own."""

from __future__ import annotations

from dataclasses import dataclass

from fitment.core.measurement import Measurement, Verdict

_THERMAL = ("cooling_active", "throttle_count", "throttle_flags", "temperature_c", "freq_khz")
"""One of these readings must be there before a device can say that it was not throttled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What ran in a slot before a deployment, as its own deployment measured it on that device."""

    variant: str  # digest
    peak_memory_bytes: int | None = None
    throttled: bool | None = None  # None: the device has no sensor that would tell
    integer_coverage: float | None = None  # share of heavy operators that ran in integers
    agreement: float | None = None  # share of reference inputs with the answer of fp32


def of(variant: str, taken: Measurement | None) -> Footprint:
    """What a measurement says of a variant; costs that an emulator made up are left out."""
    if taken is None:
        return Footprint(variant=variant)
    return Footprint(
        variant=variant,
        peak_memory_bytes=taken.peak_memory_bytes if taken.tells_costs else None,
        throttled=throttled(taken),
        integer_coverage=taken.integer_coverage,
        agreement=taken.agreement,
    )


def throttled(taken: Measurement | None) -> bool | None:
    """Whether heat or a power limit cut the clocks while it was timed; None where nothing tells.

    A run that was too short to be believed can show throttling, and never its absence.
    """
    if taken is None or not taken.tells_costs:
        return None
    if taken.verdict is Verdict.THROTTLED or taken.conditions.get("cooling_active", 0.0) > 0:
        return True
    seen = any(name in taken.conditions for name in _THERMAL)
    return False if seen and taken.verdict is not Verdict.TOO_SHORT else None
