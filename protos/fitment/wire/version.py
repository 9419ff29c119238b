"""Protocol version and what a side does when the other speaks another one."""

from __future__ import annotations

PROTOCOL = 1
"""Raised when a message changes its meaning. New optional fields do not raise it."""

OLDEST = 1
"""Oldest protocol still spoken (N-1 once there is an N-1)."""


def compatible(other: int) -> bool:
    """Whether a peer that speaks protocol ``other`` can be talked to."""
    return OLDEST <= other <= PROTOCOL + 1
