"""The mix of predictions: which share of its answers each class has, and by how much that moved.

No label is needed for it. A mix that moved on devices with a new release and not on the others says
that the release answers otherwise; one that moved on both says that the world did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.domain.telemetry import Rollup


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The mean share of each class over devices and time."""

    group: str  # "new", "old", "control"
    devices: int
    shares: Mapping[str, float]  # by class, as the devices number them
    moved: float | None = None  # from what the group is compared with, 0 to 1


def column(slot: str, name: str) -> str:
    """The telemetry column of one class."""
    return f"serving.{slot}.predicted.{name}"


def mixed(group: str, rollups: Mapping[str, Iterable[Rollup]]) -> Mix | None:
    """The mix of a group of devices, each counted alike; None where none told any.

    Args:
        group: its name.
        rollups: by class.
    """
    seen: dict[str, dict[str, list[float]]] = {}
    for name, of_class in rollups.items():
        for rollup in of_class:
            seen.setdefault(rollup.origin.device, {}).setdefault(name, []).append(rollup.mean)
    if not seen:
        return None
    sums: dict[str, float] = {}
    for of_device in seen.values():
        means = {name: sum(values) / len(values) for name, values in of_device.items()}
        whole = sum(means.values()) or 1.0
        for name, mean in means.items():
            sums[name] = sums.get(name, 0.0) + mean / whole / len(seen)
    return Mix(group=group, devices=len(seen), shares=sums)


def apart(one: Mix, other: Mix) -> float:
    """The total variation distance of two mixes: 0 alike, 1 with nothing in common."""
    names = set(one.shares) | set(other.shares)
    return sum(abs(one.shares.get(n, 0.0) - other.shares.get(n, 0.0)) for n in names) / 2
