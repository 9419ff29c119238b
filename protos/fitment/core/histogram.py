"""Mergeable histograms with fixed edges.

A device sends counts, never samples; counts with the same edges add up.
"""

from __future__ import annotations

from dataclasses import dataclass

BINS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of equal bins between ``low`` and ``high``; what lies outside is clipped in."""

    low: float
    high: float
    counts: tuple[int, ...]

    def merge(self, other: Histogram) -> Histogram:
        """Add two histograms.

        Raises:
            ValueError: the edges differ.
        """
        if (self.low, self.high, len(self.counts)) != (other.low, other.high, len(other.counts)):
            raise ValueError("histograms with different edges do not merge")
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(low=self.low, high=self.high, counts=tuple(a + b for a, b in pairs))

    @property
    def total(self) -> int:
        """Number of values counted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Value below which ``share`` (0..1) of the counts lie, linear within a bin."""
        width = (self.high - self.low) / len(self.counts)
        target = share * self.total
        seen = 0.0
        for index, count in enumerate(self.counts):
            if count and seen + count >= target:
                return self.low + width * (index + max(0.0, target - seen) / count)
            seen += count
        return self.high
