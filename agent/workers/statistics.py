"""Statistics of latencies. Durations are nanoseconds unless a name says otherwise.

Nothing here assumes a distribution: latencies have none that deserves a name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitment.core.measurement import Latency

CONFIDENCE = 0.99  # of early-stopping percentiles, as in MLPerf LoadGen
_EXACT_UP_TO = 1000  # runs; above, the normal approximation of the order is within one rank
_TAIL = 0.025  # of either side of a 95 % interval
_Z_95 = 1.959964
_SHARES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}
_ENDS = ("", "_low", "_high")


def summarise(durations_ns: Sequence[int]) -> Latency:
    """A latency distribution of at least one run."""
    ordered = sorted(durations_ns)
    low, high = median_interval(ordered)
    told = {name: _told(ordered, share) for name, share in _SHARES.items()}
    return Latency(
        count=len(ordered),
        mean_ms=sum(ordered) / len(ordered) / 1e6,
        min_ms=ordered[0] / 1e6,
        p50_ms=median(ordered) / 1e6,
        p50_low_ms=low / 1e6,
        p50_high_ms=high / 1e6,
        **{f"{name}{end}_ms": _ms(value) for name, three in told.items()
           for end, value in zip(_ENDS, three, strict=True)},
    )  # fmt: skip


def _told(ordered: Sequence[int], share: float) -> tuple[int | None, int | None, int | None]:
    """A percentile and its interval; none of it where there are too few runs."""
    value = percentile(ordered, share)
    low, high = interval(ordered, share) if value is not None else (None, None)
    return value, low, high


def not_told(latency: Latency) -> tuple[str, ...]:
    """Which percentiles are left out, and why."""
    shares = (("p90", latency.p90_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms))
    missing = ", ".join(name for name, value in shares if value is None)
    return (f"{missing} not given: {latency.count} runs are too few",) if missing else ()


def median(ordered: Sequence[float]) -> float:
    """Middle of sorted values; mean of the middle two when their number is even."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(ordered: Sequence[int], share: float) -> int | None:
    """Early-stopping estimate of a percentile (MLPerf inference rules, appendix on it).

    Let ``t`` be the largest number with ``P(Binomial(n, 1 - share) <= t) <= 1 - CONFIDENCE``.
    Drop the ``t - 1`` slowest runs; the slowest of the rest is not exceeded by more than
    ``1 - share`` of all runs, at 99 % confidence. With ``t < 1`` there are too few runs: None
    (p90 needs 64, p95 130, p99 662).
    """
    allowed = _over_latency_allowed(len(ordered), 1.0 - share)
    return ordered[len(ordered) - allowed] if allowed >= 1 else None


def median_interval(ordered: Sequence[int]) -> tuple[int, int]:
    """95 % interval of the median, by order statistics.

    The ranks ``k`` and ``n + 1 - k`` with the largest ``k`` for which
    ``P(Binomial(n, 1/2) < k) <= 2.5 %``. Below six runs no two ranks reach 95 %: least and most.
    """
    count = len(ordered)
    if count > _EXACT_UP_TO:
        rank = math.floor(count / 2 - _Z_95 * math.sqrt(count) / 2)
    else:
        rank = _over_latency_allowed(count, 0.5, limit=0.025) + 1
    rank = min(max(rank, 1), (count + 1) // 2)
    return ordered[rank - 1], ordered[count - rank]


def interval(ordered: Sequence[int], share: float) -> tuple[int | None, int | None]:
    """95 % interval of a percentile, by order statistics; an end that no run reaches is None.

    With ``K = Binomial(n, 1 - share)`` runs above the true percentile: the highest rank that all
    but 2.5 % of such draws stay below, and the lowest that all but 2.5 % reach.
    """
    count, total, fewest = len(ordered), 0.0, -1
    for above in range(count):
        total += math.exp(_log_binomial(count, above, 1.0 - share))
        if total <= _TAIL:
            fewest = above
        if total >= 1.0 - _TAIL:
            high = ordered[count - fewest - 1] if fewest >= 0 else None
            return ordered[count - above - 1], high
    return None, None


def windows_agree(durations_ns: Sequence[int], *, window: int, within: float) -> bool:
    """Whether the medians of the last two windows differ by less than ``within`` (a share)."""
    if len(durations_ns) < 2 * window:
        return False
    last = median(sorted(durations_ns[-window:]))
    before = median(sorted(durations_ns[-2 * window : -window]))
    return abs(last - before) < within * max(before, 1)


def drift(durations_ns: Sequence[int]) -> float:
    """Median of the last third over that of the first third, less one; 0 below nine runs."""
    third = len(durations_ns) // 3
    if third < 3:
        return 0.0
    first = median(sorted(durations_ns[:third]))
    last = median(sorted(durations_ns[-third:]))
    return last / first - 1.0 if first else 0.0


def _over_latency_allowed(count: int, rate: float, *, limit: float = 1.0 - CONFIDENCE) -> int:
    """Largest ``t`` with ``P(Binomial(count, rate) <= t) <= limit``; -1 when there is none."""
    total, allowed = 0.0, -1
    for successes in range(count + 1):
        total += math.exp(_log_binomial(count, successes, rate))
        if total > limit:
            break
        allowed = successes
    return allowed


def _log_binomial(count: int, successes: int, rate: float) -> float:
    # In logarithms, for 0.9 ** 200000 is 0 in floating point.
    ways = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    return ways + successes * math.log(rate) + (count - successes) * math.log1p(-rate)


def _ms(duration_ns: float | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e6
