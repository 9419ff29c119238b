"""When requests run together, and how many: decided from what waits and what runs cost.

Without a delay a batch is what came while the model was busy, so an idle device answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

BACK_OFF: Final = 0.9
"""Factor on the cap when a run took too long; Clipper's (Crankshaw et al., NSDI 2017, §4.3)."""
GROW_AFTER: Final = 16
"""Full batches in a row within the limit before the cap grows by one."""
WINDOW: Final = 100
"""Runs of which one may be over the limit."""
ROOM: Final = 0.9
"""Share of the limit that a run may use and the cap still grow: else it would swing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator sets."""

    max_rows: int = 8  # samples in one run
    max_delay_s: float = 0.0  # that a request may wait for company
    p99_limit_s: float | None = None  # of a request's latency on the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Governor:
    """The cap on a batch under a latency limit: additive increase, multiplicative decrease.

    A request may come just after a run began: it waits for that one, perhaps for company, and
    then for its own. So the limit holds while ``2 * run + delay`` is within it, as long as what
    waits fits into one batch; more than that is overload, which no batch size mends. One run in
    `WINDOW` may be over it, as the 99th percentile allows.
    """

    policy: Policy
    cap: int
    full: int = 0  # full batches in a row that left room
    seen: int = 0  # runs of this window
    over: int = 0  # of them above the limit

    def ran(self, rows: int, run_s: float) -> Governor:
        """Learn from a run of ``rows`` samples that took ``run_s`` seconds."""
        limit_s = self.policy.p99_limit_s
        if limit_s is None:
            return self
        expected_s = 2 * run_s + self.policy.max_delay_s
        over = self.over + (expected_s > limit_s)
        if over > 1:
            return replace(
                self, cap=max(1, int(min(rows, self.cap) * BACK_OFF)), full=0, seen=0, over=0
            )
        seen, over = (self.seen + 1, over) if self.seen + 1 < WINDOW else (0, 0)
        full = self.full
        if rows >= self.cap:
            full = full + 1 if expected_s <= ROOM * limit_s else 0
        grows = full >= GROW_AFTER and self.cap < self.policy.max_rows
        return replace(self, cap=self.cap + grows, full=0 if grows else full, seen=seen, over=over)


def governor(policy: Policy) -> Governor:
    """The start: one by one under a limit, for what a batch costs is not known yet."""
    return Governor(policy=policy, cap=policy.max_rows if policy.p99_limit_s is None else 1)


def wait_s(policy: Policy, cap: int, *, rows: int, oldest_s: float) -> float:
    """How long the next run may still wait for company; 0: run now.

    Args:
        policy: the settings.
        cap: samples that go into one run at present.
        rows: samples that wait and would run together.
        oldest_s: how long the first of them has waited.
    """
    return 0.0 if rows >= cap else max(0.0, policy.max_delay_s - oldest_s)


def together(rows: Sequence[int], cap: int) -> int:
    """How many of the first waiting requests run together: at least one, whatever its size."""
    taken, total = 0, 0
    for size in rows:
        if taken and total + size > cap:
            break
        taken, total = taken + 1, total + size
    return taken
