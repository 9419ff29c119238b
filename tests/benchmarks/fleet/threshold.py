"""An engine of hawkBit's kind, for comparison: groups, an error threshold, a success threshold.

After hawkBit's rollout scheduler (github.com/eclipse-hawkbit/hawkbit, 67ca1c4): every device of a
running group gets its action at once; errors over all of the group above the threshold pause the
rollout; a group goes on to the next when enough have finished, or when all have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.benchmarks.fleet.story import Fate


@dataclass(slots=True, kw_only=True)
class ThresholdEngine:
    """One rollout; sizes of groups are those of our waves."""

    fates: Sequence[Fate]
    waves: Sequence[float]
    errors_most: float  # share of a group
    success_least: float = 0.9
    admitted: dict[int, float] = field(default_factory=dict)  # device -> when
    halted: bool = False
    done: bool = False
    _group: int = 0

    def _members(self, group: int) -> range:
        edges = [0, *(round(share * len(self.fates)) for share in self.waves)]
        return range(edges[group], edges[group + 1])

    def turn(self, now: float) -> None:
        """One look."""
        for group in range(self._group + 1):
            members = self._members(group)
            for device in members:
                self.admitted.setdefault(device, now)
            over = [d for d in members if now - self.admitted[d] >= self.fates[d].takes_s]
            errors = sum(self.fates[d].fails for d in over)
            if errors > self.errors_most * len(members):
                self.halted = True
                return
            if group == self._group:
                finished = len(over) - errors
                if finished >= self.success_least * len(members) or len(over) == len(members):
                    self._on()

    def _on(self) -> None:
        if self._group + 1 < len(self.waves):
            self._group += 1
        else:
            self.done = True
