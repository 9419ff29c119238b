"""Pruning in rounds: cut a little, recover a little, and again.

The cubic schedule of Zhu & Gupta (2017, arXiv:1710.01878): after round t of n

    s_t = s_f · (1 − (1 − t/n)³)

of the channels are gone; much at first, while there is plenty to lose, and little at the end.
Rounds are plain steps of a recipe: each prunes to its share of the user's own network and is
followed by its distillation.
"""

from __future__ import annotations

from dataclasses import replace

from controller.compress.base import Pass
from controller.compress.passes.distil import Distil
from controller.compress.passes.prune_structured import PruneRound
from controller.errors import FitError


def cubic(final: float, rounds: int) -> tuple[float, ...]:
    """Share that is gone after each round; the last is ``final``.

    Raises:
        FitError: no share between 0 and 1, or no round.
    """
    if not 0 < final < 1 or rounds < 1:
        raise FitError(
            f"a final ratio between 0 and 1 and at least one round are needed, not {final} and "
            f"{rounds}"
        )
    return tuple(final * (1.0 - (1.0 - t / rounds) ** 3) for t in range(1, rounds + 1))


def structured_rounds(
    ratio: float,
    rounds: int,
    *,
    recovery: Distil,
    between: float = 0.15,
    multiple_of: int = 8,
    criterion: str = "l1",
) -> tuple[Pass, ...]:
    """Steps of a recipe that prune to ``ratio`` in rounds, with ``recovery`` shared among them.

    Args:
        ratio: share of channels that are gone at the end.
        rounds: how many.
        recovery: the training that one cut alone would get; the rounds together get as much.
        between: share of it that follows each round but the last, which gets the rest.
        multiple_of: channels are kept in multiples of it.
        criterion: which channels go.
    """
    if not 0 < between * (rounds - 1) + 1e-9 < 1:
        raise FitError(f"{rounds} rounds cannot each take {between:.0%} of the recovery")
    images = recovery.epochs * recovery.samples
    steps: list[Pass] = []
    for number, share in enumerate(cubic(ratio, rounds), 1):
        rounded = round(share, 6)  # the digest should not hold a float's last bit
        steps.append(PruneRound(ratio=rounded, multiple_of=multiple_of, criterion=criterion))
        if number < rounds:
            steps.append(replace(recovery, epochs=1, samples=max(1, round(images * between))))
        else:
            left = 1.0 - between * (rounds - 1)
            steps.append(replace(recovery, samples=max(1, round(recovery.samples * left))))
    return tuple(steps)
