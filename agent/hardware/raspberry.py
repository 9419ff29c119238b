"""Facts of Raspberry Pi boards."""

from __future__ import annotations

import re

from agent.sysfs import Tree, text


def serial(tree: Tree) -> str:
    """Serial number from ``/proc/cpuinfo``, where older kernels put it; empty elsewhere."""
    found = re.search(r"^Serial\s*:\s*([0-9a-f]+)$", text(tree, "proc/cpuinfo") or "", re.MULTILINE)
    return found.group(1) if found else ""
