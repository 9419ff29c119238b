"""Memory errors that the hardware corrected, where the kernel counts them (EDAC)."""

from __future__ import annotations

from agent.sysfs import Tree, find, integer


def read_corrected(tree: Tree) -> int | None:
    """Since boot, of all memory controllers together; None where none is counted."""
    counts = [integer(tree, path) for path in find(tree, "sys/devices/system/edac/mc/mc*/ce_count")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
