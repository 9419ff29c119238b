"""Intervals of shares."""

from __future__ import annotations

from controller.domain import shares
from controller.domain.shares import Z95
from controller.errors import FitError

__all__ = ["Z95", "wilson"]


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (`controller.domain.shares`).

    Raises:
        FitError: there is no sample.
    """
    if count <= 0:
        raise FitError("an interval needs at least one sample")
    return shares.wilson(right, count, z)
