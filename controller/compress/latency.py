"""Statistics of latencies, free of assumptions about their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fitment.core.measurement import Verdict

DRIFT_MAX = 0.05  # of the last third's median against the first third's
_P95_SLOWER_ALLOWED = 0.01  # MLPerf's early stopping: 99 % confidence
_Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Latency of one variant on this machine; the interval is of the median, 95 %."""

    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p95_ms: float | None  # null with too few runs for an upper bound at 99 % confidence
    count: int
    verdict: Verdict
    reasons: tuple[str, ...] = ()


def summarise(
    durations_ns: Sequence[int], *, cpu_shares: Sequence[float], cpu_share_min: float
) -> Timing:
    """Latencies in the order they were taken, and the processor's share of each block."""
    ordered = np.sort(np.asarray(durations_ns, np.float64)) / 1e6
    count = len(ordered)
    rank = max(1, math.floor(count / 2 - _Z_95 * math.sqrt(count) / 2))
    verdict, reasons = _judge(durations_ns, cpu_shares, cpu_share_min)
    return Timing(
        p50_ms=float(np.median(ordered)),
        p50_low_ms=float(ordered[rank - 1]),
        p50_high_ms=float(ordered[count - rank]),
        p95_ms=_p95(ordered.tolist()),
        count=count,
        verdict=verdict,
        reasons=reasons,
    )


def _judge(
    durations_ns: Sequence[int], cpu_shares: Sequence[float], cpu_share_min: float
) -> tuple[Verdict, tuple[str, ...]]:
    share = float(np.median(cpu_shares)) if len(cpu_shares) else 1.0
    third = len(durations_ns) // 3
    if third < 3:
        return Verdict.TOO_SHORT, (f"{len(durations_ns)} runs are too few to judge",)
    reasons = []
    if share < cpu_share_min:
        reasons.append(f"the processor was ours for {share:.0%} of the time")
    first, last = (float(np.median(p)) for p in (durations_ns[:third], durations_ns[-third:]))
    drift = last / first - 1.0 if first else 0.0
    if abs(drift) > DRIFT_MAX:
        reasons.append(f"the last third took {drift:+.0%} against the first")
    if share < cpu_share_min:
        return Verdict.CONTENDED, tuple(reasons)
    return (Verdict.DRIFTING if reasons else Verdict.VALID), tuple(reasons)


def _p95(ordered: Sequence[float]) -> float | None:
    """Early-stopping estimate (MLPerf inference rules): drop ``t - 1`` of the slowest runs.

    ``t`` is the largest number with ``P(Binomial(n, 5 %) <= t) <= 1 %``; none below 130 runs.
    """
    count, total, allowed = len(ordered), 0.0, 0
    for slower in range(count + 1):
        ways = math.lgamma(count + 1) - math.lgamma(slower + 1) - math.lgamma(count - slower + 1)
        total += math.exp(ways + slower * math.log(0.05) + (count - slower) * math.log(0.95))
        if total > _P95_SLOWER_ALLOWED:
            break
        allowed = slower
    return ordered[count - allowed] if allowed >= 1 else None
