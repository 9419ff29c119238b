"""Pruning in rounds: cut a little, recover a little, and again.

The cubic schedule of Zhu & Gupta (2017, arXiv:1710.01878): after round t of n

    s_t = s_f · (1 − (1 − t/n)³)

of the channels are gone; much at first, while there is plenty to lose, and little at the end.
Rounds are plain steps of a recipe: each prunes to its share of the user's own network and is
followed by its distillation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.compress.base import Pass
from controller.compress.passes.distil import Distil
from controller.compress.passes.prune_structured import PruneRound
from controller.compress.passes.prune_weights import PruneWeights, SettleWeights
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
    # Rounded: a recipe's digest should not hang on a float's last bit.
    return tuple(round(final * (1.0 - (1.0 - t / rounds) ** 3), 6) for t in range(1, rounds + 1))


def structured_rounds(
    ratio: float,
    rounds: int,
    *,
    recovery: Distil,
    between: float = 0.15,
    multiple_of: int = 8,
    criterion: str = "l1",
) -> tuple[Pass, ...]:
    """Steps of a recipe that prune channels to ``ratio`` in rounds.

    Args:
        ratio: share of channels that are gone at the end.
        rounds: how many.
        recovery: the training that one cut alone would get; the rounds together get as much.
        between: share of it that follows each round but the last, which gets the rest.
        multiple_of: channels are kept in multiples of it.
        criterion: which channels go.
    """
    cuts = [
        PruneRound(ratio=share, multiple_of=multiple_of, criterion=criterion)
        for share in cubic(ratio, rounds)
    ]
    return _recovered(cuts, recovery, between)


def weight_rounds(
    sparsity: float, rounds: int, *, recovery: Distil, between: float = 0.15, floor: float = 0.1
) -> tuple[Pass, ...]:
    """Steps of a recipe that set weights to zero in rounds, and at last settle them.

    Args:
        sparsity: share of the weights that are zero at the end.
        rounds: how many.
        recovery: as for channels.
        between: as for channels.
        floor: share of its weights that each layer keeps at least.
    """
    cuts = [PruneWeights(sparsity=share, floor=floor) for share in cubic(sparsity, rounds)]
    return (*_recovered(cuts, recovery, between), SettleWeights())


def _recovered(cuts: Sequence[Pass], recovery: Distil, between: float) -> tuple[Pass, ...]:
    """Each cut with its share of one recovery."""
    others = len(cuts) - 1
    if not between > 0 or between * others >= 1:
        raise FitError(f"{len(cuts)} rounds cannot each take {between:.0%} of the recovery")
    images = recovery.epochs * recovery.samples
    short = replace(recovery, epochs=1, samples=max(1, round(images * between)))
    left = max(1, round(recovery.samples * (1.0 - between * others)))
    steps: list[Pass] = []
    for cut in cuts[:-1]:
        steps += [cut, short]
    return (*steps, cuts[-1], replace(recovery, samples=left))
