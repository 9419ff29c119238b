"""Pressure stall information: how long tasks waited for a processor, or for memory."""

from __future__ import annotations

from dataclasses import dataclass

from agent.sysfs import Tree, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Line ``some`` of a file of ``/proc/pressure``; None where the kernel has no PSI."""

    avg10: float | None  # percent of the last ten seconds, 0..100
    total_us: int | None  # since boot; the difference of two readings is exact


def read_pressure(tree: Tree) -> Pressure:
    """Read the processor's pressure."""
    return _read(tree, "cpu")


def read_memory_pressure(tree: Tree) -> Pressure:
    """Read the memory's pressure."""
    return _read(tree, "memory")


def _read(tree: Tree, of: str) -> Pressure:
    for line in (text(tree, f"proc/pressure/{of}") or "").splitlines():
        kind, *fields = line.split()
        if kind == "some":
            values = dict(field.split("=", 1) for field in fields if "=" in field)
            return Pressure(avg10=_float(values.get("avg10")), total_us=_int(values.get("total")))
    return Pressure(avg10=None, total_us=None)


def _float(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _int(value: str | None) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        return None
