"""Is anything to be won by undoing a shift? One that is explained may still be borne.

Undoing it draws all samples toward the reference, and with them what is their own: lines of text
seen by a sensor that made them easier were answered less well once that was undone. So the model
is asked as well: with the correction it must be *surer* of its answers. The rise of certainty on
unlabelled inputs foretells that of accuracy ("difference of confidences", Guillory et al. 2021)
where inputs are near what was trained on. Where they are not, models may be sure without reason
(what is four times as bright makes logits larger, too): there a smaller rise will do, or that many
answers change, as at most one of two answers is right, and the inputs tell which is the likelier.

Chosen on lines of text drawn apart and on pictures of Fashion-MNIST's training file.
"""

from __future__ import annotations

import numpy as np

from agent.workers.runtimes.base import Array
from fitment.core.histogram import Histogram
from fitment.core.patch import Spread

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles within a sample

OUTSIDE_MIN = 0.8
"""Share of samples unlike any of the reference from which they count as foreign to the model."""

SURER = 2.0
"""Standard errors of the mean by which certainty must rise."""

SURER_FOREIGN = 1.0  # the same where samples are foreign
CHANGED_MIN = 0.1
"""Share of answers that the correction must change instead, at the lower end of 95 %. Lines of text
that were answered worse once a shift was undone changed less."""

RISE_MIN = 0.0025  # by which it must rise on average at the least

_MARGIN = 0.01  # of the reference's range, beyond the ends of what is usual
_ALIKE = 1e-2  # how near to 1 probabilities must add up; wider by what rounding may do:
_STEP = 1 / 512  # half a step of eight bits for each class,
_ALIKE_MAX = 0.1  # but to this at most


def looks(samples: Array) -> Array:
    """What a sample looks like as a whole, [N, 8]: mean, deviation, five quantiles, their reach.

    One by one: memory is short. The fit computes the same of the reference inputs
    (`controller.compress.calibration`).
    """
    rows = []
    for sample in samples:
        values = np.asarray(sample, dtype=np.float64).ravel()
        levels = np.quantile(values, LEVELS)
        rows.append([values.mean(), values.std(), *levels, levels[-1] - levels[0]])
    return np.array(rows)


def foreign(spread: Spread | None, reference: Histogram, samples: Array) -> bool:
    """Whether most samples are in some respect beyond what reference samples are.

    False where the bundle tells no spread: then the stronger evidence is asked for.
    """
    return spread is not None and outside(spread, reference, samples) >= OUTSIDE_MIN


def outside(spread: Spread, reference: Histogram, samples: Array) -> float:
    """Share of samples beyond what reference samples are."""
    found, margin = looks(samples), _MARGIN * (reference.high - reference.low)
    low, high = np.asarray(spread.low) - margin, np.asarray(spread.high) + margin
    return float(((found < low) | (found > high)).any(axis=1).mean())


def reason(before: Array, after: Array, *, strange: bool) -> str:
    """Why nothing is shown to be won; empty when something is.

    Args:
        before: outputs [N, classes] for the samples as they are, logits or probabilities.
        after: the same with corrected inputs.
        strange: the samples are `foreign`, and the explanation of their shift is no coarse one.
    """
    if strange and _changed(before, after) >= CHANGED_MIN:
        return ""
    errors = SURER_FOREIGN if strange else SURER
    # Read alike: of rounded probabilities some add up to less, and of logits they tell nothing.
    logits = not (_are_shares(before) and _are_shares(after))
    sure, surer = certainty(before, logits=logits), certainty(after, logits=logits)
    if sure is None or surer is None:
        return "the model's outputs tell no certainty, so nothing shows that it would be righter"
    rise = surer - sure
    error = float(rise.std()) / float(np.sqrt(len(rise)))
    if float(rise.mean()) >= max(RISE_MIN, errors * error):
        return ""
    return (
        f"nothing shows that the model would be righter: corrected, its certainty goes from "
        f"{sure.mean():.1%} to {surer.mean():.1%}, and a rise by {RISE_MIN:.2%} and by {errors:g} "
        f"standard errors of {error:.1%} is asked for"
    )


def _changed(before: Array, after: Array) -> float:
    """Lower end of the 95 % interval (Wilson's) of the share of answers that differ."""
    count = len(before)
    answers = (outputs.reshape(count, -1).argmax(axis=1) for outputs in (before, after))
    share, reach = float(np.mean(np.not_equal(*answers))), 1.96**2 / count
    middle = share + reach / 2
    error = float(np.sqrt(reach * (share * (1.0 - share) + reach / 4)))
    return (middle - error) / (1.0 + reach)


def certainty(outputs: Array, *, logits: bool | None = None) -> Array | None:
    """Of each row, 1 less its entropy over the largest; None where outputs are no class scores.

    ``logits``: they are no probabilities; None: whatever they look like.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    scores = outputs.astype(np.float64)
    if not _are_shares(outputs) if logits is None else logits:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = np.maximum(scores / scores.sum(axis=1, keepdims=True), 1e-12)
    sure: Array = 1.0 + (shares * np.log(shares)).sum(axis=1) / np.log(shares.shape[1])
    return sure


def _are_shares(outputs: Array) -> bool:
    """Whether rows are probabilities, each perhaps rounded to eight bits."""
    if outputs.ndim != 2 or outputs.min(initial=0.0) < 0.0:
        return False
    within = min(_ALIKE + _STEP * outputs.shape[1], _ALIKE_MAX)
    return bool((np.abs(outputs.sum(axis=1, dtype=np.float64) - 1.0) <= within).all())
