"""A change counts when it was seen in two polls in a row.

A driver that is being reloaded, a core that is offline for a moment or a half-written package
folder must not start a new fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fitment.core.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Debouncer:
    """The accepted fingerprint and the one that may follow it. Pure: `observe` gives a new one."""

    accepted: Fingerprint | None = None
    candidate: Fingerprint | None = None
    seen: int = 0  # polls in a row that showed the candidate
    needed: int = 2

    def observe(self, fingerprint: Fingerprint) -> Debouncer:
        """Take in one poll. The first one ever is accepted at once."""
        if self.accepted is None or _same(self.accepted, fingerprint):
            return replace(self, accepted=fingerprint, candidate=None, seen=0)
        again = self.candidate is not None and _same(self.candidate, fingerprint)
        seen = self.seen + 1 if again else 1
        if seen >= self.needed:
            return replace(self, accepted=fingerprint, candidate=None, seen=0)
        return replace(self, candidate=fingerprint, seen=seen)


def _same(one: Fingerprint, other: Fingerprint) -> bool:
    return _key(one) == _key(other)


def _key(fingerprint: Fingerprint) -> tuple[str, str, str, str, bool]:
    return (
        fingerprint.chassis.hash,
        fingerprint.hardware.hash,
        fingerprint.stack.hash,
        fingerprint.condition.hash,
        fingerprint.emulated,
    )
