"""The accuracy guard: widen what does harm, as little of it as brings the drop back in bounds.

The scheme of NNCF's accuracy-aware quantization and of Neural Compressor's second MSE strategy,
joined: sets of layers that must move together are ranked by widening each alone and judging it on
the worst inputs; they are widened greedily, a step that makes the drop worse is undone, and after
the second such step they are ranked anew; in the end everything that was not needed is given back.
Nothing here touches a model: a `Judge` says what widths do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.errors import FitError

Widths = Mapping[str, float]  # layer -> bits
_UNDONE_MAX = 2  # steps that worsen before the sets are ranked anew


class Judge(Protocol):
    """What widths do to the outputs; all of it on guard or calibration inputs."""

    def drop(self, widths: Widths) -> float:
        """How much worse than fp32 the model is on all inputs; higher is worse."""
        ...

    def worst(self, widths: Widths) -> Any:
        """The inputs whose outputs are furthest from fp32's; handed back to `noise`."""
        ...

    def noise(self, widths: Widths, among: Any) -> float:
        """Noise over signal on some inputs only."""
        ...

    def cost(self, widths: Widths) -> float:
        """What the widths cost, in bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Where the guard ended."""

    widths: Widths
    drop_before: float
    drop: float
    met: bool  # whether the drop is within the limit
    widened: Mapping[str, float]  # layers wider than they were, and how wide
    given_back: int  # steps of widening that turned out needless
    undone: int  # steps that made the drop worse
    judged: int  # full judgements; each is a run over all inputs


@dataclass(slots=True, kw_only=True)
class _Search:
    judge: Judge
    limit: float
    known: dict[tuple[tuple[str, float], ...], float] = field(default_factory=dict)
    undone: int = 0

    def drop(self, widths: Widths) -> float:
        key = tuple(sorted(widths.items()))
        if key not in self.known:
            found = self.judge.drop(widths)
            if math.isnan(found):
                raise FitError("the drop on the guard set is NaN: the metric cannot guard")
            self.known[key] = found
        return self.known[key]


def guard(
    start: Widths,
    groups: Sequence[frozenset[str]],
    judge: Judge,
    *,
    limit: float,
    steps: Sequence[float] = (8.0, 32.0),
) -> Guarded:
    """Widen until the drop is at most ``limit``, then give back what was not needed.

    Args:
        start: bits by layer.
        groups: sets of layers that can be widened together.
        judge: measures.
        limit: greatest drop, in the judge's unit.
        steps: widths that a set can be widened to, in bits.

    Raises:
        FitError: the judge's drop is NaN.
    """
    search = _Search(judge=judge, limit=limit)
    before = search.drop(start)
    wide = _widen(dict(start), groups, search, steps)
    kept, returned = _give_back(start, wide, search, steps)
    final = search.drop(kept)
    return Guarded(
        widths=kept,
        drop_before=before,
        drop=final,
        met=final <= limit,
        widened={n: bits for n, bits in kept.items() if bits != start[n]},
        given_back=returned,
        undone=search.undone,
        judged=len(search.known),
    )


def _widen(
    now: dict[str, float], groups: Sequence[frozenset[str]], search: _Search, steps: Sequence[float]
) -> dict[str, float]:
    """Greedy steps from ``now`` until the limit is kept or a whole ranking brings nothing."""
    moved = True
    while moved and search.drop(now) > search.limit:
        moved, worse = False, 0
        for group, bits in _ranked(now, groups, search.judge, steps):
            tried = _with(now, group, bits)
            if tried == now:
                continue  # a step before it did the same
            if search.drop(tried) > search.drop(now):
                search.undone += 1
                worse += 1
                if worse >= _UNDONE_MAX and moved:
                    break
                continue
            now, moved = tried, True
            if search.drop(now) <= search.limit:
                break
    return now


def _ranked(
    now: Widths, groups: Sequence[frozenset[str]], judge: Judge, steps: Sequence[float]
) -> list[tuple[frozenset[str], float]]:
    """Moves, the most useful alone first. Within one decibel the cheaper one comes first."""
    among = judge.worst(now)
    scored: list[tuple[float, float, int, frozenset[str], float]] = []
    for group in groups:
        for bits in steps:
            tried = _with(now, group, bits)
            if tried != now:
                left = max(judge.noise(tried, among), 1e-30)
                rank = math.inf if math.isinf(left) else round(10 * math.log10(left))
                scored.append((rank, judge.cost(tried), len(scored), group, bits))
    return [(group, bits) for *_, group, bits in sorted(scored, key=lambda s: s[:3])]


def _give_back(
    start: Widths, wide: Widths, search: _Search, steps: Sequence[float]
) -> tuple[dict[str, float], int]:
    """Put widened layers back, the dearest first, as far as the drop stays as good as it must."""
    now, returned = dict(wide), 0
    bound = max(search.limit, search.drop(wide))
    changed = [name for name in start if wide[name] != start[name]]
    saving = {
        n: search.judge.cost(wide) - search.judge.cost({**wide, n: start[n]}) for n in changed
    }
    for name in sorted(changed, key=lambda n: -saving[n]):
        narrower = [start[name], *(b for b in steps if start[name] < b < wide[name])]
        for bits in narrower:
            tried = {**now, name: bits}
            if search.drop(tried) <= bound:
                now, returned = tried, returned + 1
                break
    return now, returned


def _with(widths: Widths, group: frozenset[str], bits: float) -> dict[str, float]:
    """``widths`` with a set of layers at no less than ``bits``."""
    return {n: max(old, bits) if n in group else old for n, old in widths.items()}
