"""An application's lease on a slot: what it was given, what it says it has loaded, how that goes.

The folder that was given and the one that is loaded are both held: while it loads the new one, it
answers with the old.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.domain.trial import ENOUGH, Told

LEASE_S: Final = 30.0
"""Without a word from an application, or without its connection after a restart of ours."""
_REMEMBERED: Final = 1024  # latencies, the newest
_FOR_P95: Final = 130  # as in `agent.workers.statistics`


class NotGiven(Exception):
    """It says that it has loaded what it was not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What outlives the supervisor: a commit waits for these."""

    application: str
    slot: str
    expects: Mapping[str, Any] | None = None  # see `agent.domain.expects`


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A bundle that an application may read."""

    folder: str = ""
    variant: str = ""  # its digest
    overlay: str = ""  # path of what calibration changed; empty: it is pristine


@dataclass(slots=True)
class Tally:
    """What an application told of one variant."""

    requests: int = 0
    errors: int = 0
    newest_ms: collections.deque[float] = field(
        default_factory=lambda: collections.deque(maxlen=_REMEMBERED)
    )

    def told(self, variant: str, *, more: Tally | None = None) -> Told:
        """As the trial takes it; counts of ``more`` are added, its latencies are not."""
        newest = sorted(self.newest_ms)
        return Told(
            variant=variant, requests=self.requests + (more.requests if more else 0),
            errors=self.errors + (more.errors if more else 0), count=len(newest),
            p50_ms=_rank(newest, 0.5) if len(newest) >= ENOUGH else None,
            p95_ms=_rank(newest, 0.95) if len(newest) >= _FOR_P95 else None,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Lease:
    """One application and one slot, as long as it lives."""

    registered: Registered
    since_s: float  # when it could first know what to load
    heard_s: float
    given: Given = field(default_factory=Given)
    loaded: Given = field(default_factory=Given)
    tally: Tally = field(default_factory=Tally)  # of what is loaded
    earlier: Tally | None = None  # of what was loaded before
    earlier_variant: str = ""

    @property
    def holds(self) -> frozenset[str]:
        """Folders that must stay as they are."""
        return frozenset(one.folder for one in (self.given, self.loaded) if one.folder)

    def lapsed(self, now_s: float) -> bool:
        """Whether nothing was heard for too long."""
        return now_s - self.heard_s > LEASE_S

    def acknowledge(self, variant: str) -> None:
        """It has loaded ``variant``, and lets go of what it had before.

        Raises:
            NotGiven: that is not what it was given last.
        """
        if variant != self.given.variant:
            raise NotGiven(
                f"the lease is on {self.given.variant or 'nothing'}, not on {variant or 'nothing'}:"
                " ask for the lease again and load what it names"
            )
        if self.given != self.loaded:  # the same digest may come anew, with another calibration
            self.earlier, self.earlier_variant = self.tally, self.loaded.variant
            self.tally = Tally()
        self.loaded = self.given

    def report(self, latencies_ms: Sequence[float], errors: int) -> None:
        """Requests since the last report: the time of each that was answered, and failures."""
        self.tally.requests += len(latencies_ms)
        self.tally.errors += errors
        self.tally.newest_ms.extend(latencies_ms)

    def told(self) -> tuple[Told | None, Told]:
        """(with what it had before, now); the former is None where it told nothing of it."""
        earlier = self.earlier if self.earlier_variant else None
        now = self.tally.told(self.loaded.variant, more=earlier)
        return (earlier.told(self.earlier_variant) if earlier else None), now


def renewed(lease: Lease, given: Given, now_s: float) -> bool:
    """Name what the slot leads to now. Returns whether that is something new."""
    new = given != lease.given
    lease.given, lease.heard_s = given, now_s
    return new


def _rank(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
