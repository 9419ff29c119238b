"""Both kinds of time, and the oldest moment that a clock may be believed about."""

from __future__ import annotations

import time
from typing import Final

EARLIEST_UNIX: Final = 1_793_491_200.0
"""1 November 2026: no copy of this version is older, so a clock before it is wrong."""


class SystemClock:
    """The machine's."""

    def monotonic_s(self) -> float:
        """Never goes back; means nothing outside this process."""
        return time.monotonic()

    def wall_unix_s(self) -> float:
        """A hint: device clocks wander."""
        return time.time()
