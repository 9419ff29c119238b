"""Facts of a device tree: what the board is called and what it is compatible with."""

from __future__ import annotations

import re

from agent.sysfs import Tree, find, strings, text

_BASE = "proc/device-tree"


def board(tree: Tree) -> str:
    """The full model, revision included; empty without a device tree."""
    return text(tree, f"{_BASE}/model") or ""


def serial(tree: Tree) -> str:
    """The board's serial number; empty when there is none."""
    return text(tree, f"{_BASE}/serial-number") or ""


def hardware(tree: Tree) -> dict[str, str]:
    """``model`` without its revision, ``compatible`` (most specific first) and ``cpu``.

    A board swapped for the same one of another revision stays in its cohort, and cores that a
    power mode took offline are still part of the hardware: that is why the processor comes from
    here where it can, and not from ``/proc/cpuinfo``.
    """
    facts = {
        "model": re.sub(r"\s+Rev\s+[\w.]+$", "", board(tree)),
        "compatible": " ".join(strings(tree, f"{_BASE}/compatible")),
        "cpu": "+".join(_cores(tree)),
    }
    return {key: value for key, value in facts.items() if value}


def _cores(tree: Tree) -> list[str]:
    names = set()
    for path in find(tree, f"{_BASE}/cpus/cpu@*/compatible"):
        for token in strings(tree, path)[:1]:
            names.add(token.split(",", 1)[-1])
    return sorted(names)
