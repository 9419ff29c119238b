"""What the supervisor no longer needs is freed often, so that it stays small."""

from __future__ import annotations

import gc
import math
from typing import Final

INTERVAL_S: Final = 30.0


class Tidy:
    """Collects garbage by the clock.

    Python looks at its oldest objects only once those that came later are a quarter as many: with
    an agent's modules loaded that lets some 2 MiB pile up. So what is there after the first round
    is left out of sight (`gc.freeze`), and the little that came since is looked through whole.
    """

    def __init__(self) -> None:
        self._next_s = -math.inf

    def tick(self, now_s: float) -> None:
        """Collect when it is time; under a millisecond after the first."""
        if now_s < self._next_s:
            return
        gc.collect()
        if self._next_s == -math.inf:
            gc.freeze()
        self._next_s = now_s + INTERVAL_S
