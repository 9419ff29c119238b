"""Golden inputs: a few inputs with known answers that travel with every variant.

They come from the guard set in its order, without looking at labels. Inputs whose two highest
outputs are closer than the tolerance are left out: another processor's honest rounding may
order those the other way, and a correct device must not be refused.

Of the rest the first of every answer come first, then the second of every answer and so on: ten
inputs of ten classes notice what sixteen in the guard set's order do (measured:
``tests/benchmarks/compression/goldens.py``), and they are most of what a small bundle adds to
its model. Inputs of more than 910 bytes, as images stored as float32 are,
stop at `FEWEST`: eight, which are not all of ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import FitError

MOST, FEWEST = 16, 8
ENOUGH_BYTES = 8_192  # of stored inputs: none is added above `FEWEST` that goes beyond it
FP32_TOLERANCE = 1e-3  # of the outputs' range: sums in another order
INT8_TOLERANCE = 0.03  # of the outputs' range: a few steps of an int8 output and its layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Stored inputs, this variant's outputs, fp32's outputs, and the absolute tolerance."""

    inputs: NDArray[Any]
    outputs: NDArray[np.float32]
    reference: NDArray[np.float32]
    tolerance: float


def choose(
    stored: NDArray[Any],
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    scheme: str,
) -> Golden:
    """Take a few inputs whose answer is clear, of all answers.

    No larger share of them than of all clear ones is answered otherwise than by fp32: a device
    is asked for the agreement that is known of the variant, which must not hang on the draw.

    Raises:
        FitError: there are hardly any; such a variant could not be told from a broken one.
    """
    spread = max(float(np.ptp(outputs)), 1e-6)
    tolerance = spread * (FP32_TOLERANCE if scheme == "fp32" else INT8_TOLERANCE)
    clear = np.arange(len(outputs))
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        top = np.partition(outputs, -2, axis=1)
        clear = np.flatnonzero((top[:, -1] - top[:, -2]) > tolerance)
    if len(clear) < min(FEWEST, len(outputs)):
        raise FitError(
            f"only {len(clear)} of {len(outputs)} guard inputs get a clear answer from this "
            "variant, too few to check it on a device"
        )
    chosen = clear[_few(outputs[clear], reference[clear], _count(stored))]
    return Golden(
        inputs=np.ascontiguousarray(stored[chosen]),
        outputs=outputs[chosen],
        reference=reference[chosen],
        tolerance=tolerance,
    )


def _count(stored: NDArray[Any]) -> int:
    each = max(1, stored[:1].nbytes)
    return max(FEWEST, min(MOST, ENOUGH_BYTES // each))


def _few(
    outputs: NDArray[np.float32], reference: NDArray[np.float32], count: int
) -> NDArray[np.intp]:
    """Places of ``count`` inputs or fewer: in turn of every answer."""
    answers, wanted = _top1(outputs), _top1(reference)
    turn = np.zeros(len(answers), int)
    for answer in np.unique(answers):
        same = answers == answer
        turn[same] = np.arange(int(same.sum()))
    order = np.argsort(turn, kind="stable")
    other = answers[order] != wanted[order]
    allowed = int(min(count, len(order)) * other.mean())
    few: NDArray[np.intp] = order[~other | (np.cumsum(other) <= allowed)][:count]
    return few


def _top1(outputs: NDArray[np.float32]) -> NDArray[np.intp]:
    first: NDArray[np.intp] = outputs.reshape(len(outputs), -1).argmax(axis=1)
    return first
