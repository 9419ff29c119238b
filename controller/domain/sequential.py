"""Tests that may be looked at after every device: always-valid e-values and intervals.

All of them take observations in [0, 1], one a device (or a group of devices), of which it is
claimed that each, given those before it, has a mean of at most ``allowed``. An e-value is what a
fair bet against that claim has grown to: however often it is looked at, it reaches ``1 / alpha``
with a chance of at most ``alpha`` while the claim holds (Ville 1939). Sources: Wald, *Sequential
tests of statistical hypotheses* (1945); Robbins, *Statistical methods related to the law of the
iterated logarithm* (1970); Waudby-Smith and Ramdas, *Estimating means of bounded random variables
by betting* (2023); Vovk and Wang, *E-values: calibration, combination and applications* (2021).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

STEPS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
"""Alternatives that are bet on, as shares of the way from what is allowed to 1; equal stakes."""
MOST = 1e12
"""E-values end here: beyond it there is no doubt, and JSON has no infinity."""
_remembered = functools.lru_cache(maxsize=8192)
"""The same counts are looked at again and again, in every gate and at every look."""


@_remembered
def e_value(seen: int, total: float, allowed: float) -> float:
    """The bet that the mean is above ``allowed``, after ``seen`` observations that sum to total.

    A mixture of likelihood ratios; for observations between 0 and 1 each is at most the betting
    factor ``1 + b (x - allowed)``, by the inequality of the means, so its mean is at most 1.

    Args:
        seen: number of observations.
        total: their sum, 0 to ``seen``.
        allowed: the mean claimed at most, 0 <= allowed < 1.
    """
    if not seen or allowed >= 1.0:
        return 1.0
    if allowed <= 0.0:
        return MOST if total > 0 else 1.0
    logs = [_log_ratio(seen, total, allowed + step * (1 - allowed), allowed) for step in STEPS]
    most = max(logs)
    grown = most + math.log(sum(math.exp(one - most) for one in logs) / len(STEPS))
    return math.exp(min(grown, math.log(MOST)))


def _log_ratio(seen: int, total: float, share: float, allowed: float) -> float:
    good = (seen - total) * math.log((1 - share) / (1 - allowed))
    return total * math.log(share / allowed) + good


def highest(observed: Sequence[float], allowed: float) -> tuple[float, int]:
    """The greatest e-value that the bet ever had, and after how many observations.

    Only a positive observation can raise it, so only those are looked at.
    """
    best, at, total = 1.0, 0, 0.0
    for number, value in enumerate(observed, 1):
        total += value
        if value > 0:
            found = e_value(number, total, allowed)
            if found > best:
                best, at = found, number
    return best, at


@_remembered
def share_bounds(seen: int, total: float, alpha: float) -> tuple[float, float]:
    """An interval for the mean that holds at all times together, with a chance of ``1 - alpha``.

    Every mean against which the uniform mixture of likelihoods has not grown to ``1 / alpha``
    (Robbins 1970; the beta-binomial mixture). It is never empty: the likelihood is concave.
    """
    if not seen:
        return 0.0, 1.0

    def inside(mean: float) -> bool:
        return _is_plausible(seen, total, mean, alpha)

    middle = total / seen
    low = 0.0 if total == 0 else _edge(middle, 0.0, inside)
    high = 1.0 if total == seen else _edge(middle, 1.0, inside)
    return low, high


def _is_plausible(seen: int, total: float, mean: float, alpha: float) -> bool:
    mixture = math.lgamma(total + 1) + math.lgamma(seen - total + 1) - math.lgamma(seen + 2)
    return _log_likelihood(seen, total, mean) > mixture - math.log(1 / alpha)


def _log_likelihood(seen: int, total: float, mean: float) -> float:
    found = 0.0
    for count, chance in ((total, mean), (seen - total, 1 - mean)):
        if count > 0:
            found += count * math.log(chance) if chance > 0 else -math.inf
    return found


def _edge(inner: float, outer: float, inside: Callable[[float], bool]) -> float:
    for _ in range(40):
        middle = (inner + outer) / 2
        if inside(middle):
            inner = middle
        else:
            outer = middle
    return outer


def quantile_bounds(
    values: Sequence[float], above: float, alpha: float
) -> tuple[float | None, float | None]:
    """An always-valid interval for the value that a share ``above`` of devices exceeds.

    The values at whose rank the share's own interval (`share_bounds`) begins and ends (Howard and
    Ramdas, *Sequential estimation of quantiles*, 2022). None: too few to bound it on that side.
    """
    ordered = sorted(values, reverse=True)
    seen = len(ordered)
    ranks = _plausible(seen, above, alpha)
    if ranks is None:
        return None, None
    high = ordered[ranks[0] - 1] if ranks[0] > 0 else None
    low = ordered[ranks[1]] if ranks[1] < seen else None
    return low, high


@_remembered
def _plausible(seen: int, share: float, alpha: float) -> tuple[int, int] | None:
    """The least and the greatest count that speak for a share; None: none does."""
    found = [c for c in range(seen + 1) if _is_plausible(seen, c, share, alpha)]
    return (found[0], found[-1]) if found else None


def stops_after(allowed: float, true: float, needed: float, miss: float = 0.05) -> int | None:
    """After how many devices a share of ``true`` has been seen through, but for a chance ``miss``.

    Exact for independent devices: at this number the count of failures that brings the e-value to
    ``needed`` is reached with a chance of at least ``1 - miss``; having stopped earlier only
    raises it. None: not within ten thousand devices.
    """
    if true <= allowed:
        return None
    step = 1
    while step <= 16_384:
        if _reached(step, allowed, true, needed) >= 1 - miss:
            break
        step *= 2
    else:
        return None
    low, high = step // 2, step
    while high - low > 1:
        middle = (low + high) // 2
        if _reached(middle, allowed, true, needed) >= 1 - miss:
            high = middle
        else:
            low = middle
    return high


def _reached(seen: int, allowed: float, true: float, needed: float) -> float:
    low, high = -1, seen + 1  # the least count that suffices lies above low
    while high - low > 1:
        middle = (low + high) // 2
        if e_value(seen, middle, allowed) >= needed:
            high = middle
        else:
            low = middle
    return tail(seen, high, true)


@_remembered
def tail(seen: int, least: int, chance: float) -> float:
    """The chance of at least so many of ``seen`` independent ones (binomial)."""
    if not 0 < chance < 1:
        return float(least <= (seen if chance else 0))
    below = 0.0
    for count in range(min(least, seen + 1)):
        ways = math.lgamma(seen + 1) - math.lgamma(count + 1) - math.lgamma(seen - count + 1)
        below += math.exp(ways + count * math.log(chance) + (seen - count) * math.log(1 - chance))
    return max(0.0, 1 - below)
