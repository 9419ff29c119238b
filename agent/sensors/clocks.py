"""Processor clocks (cpufreq)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.sysfs import Tree, find, integer, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Frequencies in kHz over all policies; None where there is no cpufreq (most VMs)."""

    current_khz: int | None  # fastest policy now
    maximum_khz: int | None  # what the fastest core can do
    allowed_khz: int | None  # below the maximum: capped by a user, a power mode or heat
    governor: str  # empty when unknown; several are joined with "+"


def read_clocks(tree: Tree) -> Clocks:
    """Read all cpufreq policies."""
    folders = find(tree, "sys/devices/system/cpu/cpufreq/policy*") or find(
        tree, "sys/devices/system/cpu/cpu*/cpufreq"
    )
    governors = sorted({text(tree, f"{f}/scaling_governor") or "" for f in folders} - {""})
    return Clocks(
        current_khz=_largest(tree, folders, "scaling_cur_freq"),
        maximum_khz=_largest(tree, folders, "cpuinfo_max_freq"),
        allowed_khz=_largest(tree, folders, "scaling_max_freq"),
        governor="+".join(governors),
    )


def _largest(tree: Tree, folders: tuple[str, ...], name: str) -> int | None:
    values = [integer(tree, f"{folder}/{name}") for folder in folders]
    return max((v for v in values if v is not None), default=None)
