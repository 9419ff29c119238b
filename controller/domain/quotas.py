"""How many devices of a group may have begun, and how many of them may be under way."""

from __future__ import annotations

import math

from controller.domain.fleet import Gate


def quota(members: int, share: float) -> int:
    """How many of a group a wave may have admitted: at least one."""
    return max(1, math.ceil(share * members - 1e-9))


def room(ended: int, open_now: int, gate: Gate) -> int:
    """How many more may be under way: as many as have ended, at least `Gate.open_most`."""
    return max(gate.open_most, ended) - open_now
