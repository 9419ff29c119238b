"""What devices measured over what was predicted for them, and what later predictions make of it.

A prediction is a sum of parts: what a run costs before any layer, and the layers of each kind
(`compress.predict`). For each runtime of a profile a factor is learnt for each part, so that the
factored parts add up to what devices measured. In logarithms c of the factors:

    minimise  sum_i w_i (log m_i - log sum_k e^(c_k) p_ik)^2 + SHRINK * sum_k c_k^2

with Huber's weights w: a few wild pairs must not turn a table. One pair moves a little, a part that
no variant consists of stays as it is, and parts that no variant tells apart share what is off.
Factors of a scheme of its own were tried, and one for the whole of a prediction: both made
variants that were held out worse, since what is off is mostly what a run costs. What is learnt
corrects numbers, and never their kind.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SHRINK = 1.0
"""Pairs' worth of doubt."""
_HUBER = 0.15
"""Residuals above this share, or twice what is usual, count less the larger they are."""
_ROUNDS = 60
MOST = 4.0
"""Whatever was measured, no part is corrected by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One variant on one device: what was predicted, in parts, and what was measured."""

    device: str
    runtime: str
    scheme: str
    parts: Mapping[str, float]  # kind of layer, and "run", to milliseconds
    measured_ms: float

    @property
    def predicted_ms(self) -> float:
        """The sum of its parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Factors of one runtime's parts; a part that is not here is right as it is."""

    runtime: str
    parts: Mapping[str, float] = field(default_factory=dict)
    pairs: int = 0  # that differ
    devices: int = 0


def learn(pairs: Iterable[Pair]) -> tuple[Residual, ...]:
    """Factors from pairs of one profile; what has no number above nothing is no pair.

    Variants that differ in nothing that is predicted (weights of four bits, say) are one pair a
    device: they would vote twice for the same thing.
    """
    sound = _merged([p for p in pairs if p.measured_ms > 0 and p.predicted_ms > 0])
    found = []
    for runtime in sorted({p.runtime for p in sound}):
        some = [p for p in sound if p.runtime == runtime]
        parts = {kind: _factor(value) for kind, value in _logs(some).items()}
        devices = len({p.device for p in some})
        found.append(Residual(runtime=runtime, parts=parts, pairs=len(some), devices=devices))
    return tuple(found)


def corrected(
    parts: Mapping[str, float], residuals: Sequence[Residual], runtime: str
) -> tuple[float, int]:
    """The prediction of these parts, and by how many devices' residuals it was corrected."""
    found = next((r for r in residuals if r.runtime == runtime), None)
    if found is None:
        return sum(parts.values()), 0
    return sum(ms * found.parts.get(kind, 1.0) for kind, ms in parts.items()), found.devices


def _factor(value: float) -> float:
    return min(max(math.exp(value), 1.0 / MOST), MOST)


def _merged(pairs: Sequence[Pair]) -> list[Pair]:
    """One for each device, runtime, scheme and parts, with the median of what it measured."""
    alike: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        key = (pair.device, pair.runtime, pair.scheme, tuple(sorted(pair.parts.items())))
        alike.setdefault(key, []).append(pair)
    return [
        Pair(
            device=some[0].device, runtime=some[0].runtime, scheme=some[0].scheme,
            parts=some[0].parts, measured_ms=statistics.median(p.measured_ms for p in some),
        )
        for some in alike.values()
    ]  # fmt: skip


def _logs(pairs: Sequence[Pair]) -> dict[str, float]:
    """Coordinate descent, by Gauss's and Newton's step for one part at a time."""
    kinds = sorted({kind for pair in pairs for kind, ms in pair.parts.items() if ms > 0})
    found = dict.fromkeys(kinds, 0.0)
    for _ in range(_ROUNDS):
        width = max(_HUBER, 2.0 * statistics.median(abs(_share(p, found, "")[1]) for p in pairs))
        for kind in kinds:
            slope, bend = -SHRINK * found[kind], SHRINK
            for pair in pairs:
                share, off = _share(pair, found, kind)
                weight = 1.0 if abs(off) <= width else width / abs(off)
                slope += weight * off * share
                bend += weight * share * share
            found[kind] += slope / bend
    return found


def _share(pair: Pair, logs: Mapping[str, float], kind: str) -> tuple[float, float]:
    """A kind's share of the corrected prediction, and by how much that is off, as a logarithm."""
    each = {k: ms * math.exp(logs[k]) for k, ms in pair.parts.items() if k in logs}
    total = sum(each.values())
    return each.get(kind, 0.0) / total, math.log(pair.measured_ms / total)
