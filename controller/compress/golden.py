"""Golden inputs: a few inputs with known answers that travel with every variant.

They come from the guard set in its order, without looking at labels. Inputs whose two highest
outputs are closer than the tolerance are left out: another processor's honest rounding may
order those the other way, and a correct device must not be refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import FitError

COUNT = 64
MIN_COUNT = 8
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
    """Take the first `COUNT` inputs whose answer is clear.

    Raises:
        FitError: there are hardly any; such a variant could not be told from a broken one.
    """
    spread = max(float(np.ptp(outputs)), 1e-6)
    tolerance = spread * (FP32_TOLERANCE if scheme == "fp32" else INT8_TOLERANCE)
    clear = np.ones(len(outputs), bool)
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        top = np.partition(outputs, -2, axis=1)
        clear = (top[:, -1] - top[:, -2]) > tolerance
    chosen = np.flatnonzero(clear)[:COUNT]
    if len(chosen) < min(MIN_COUNT, len(outputs)):
        raise FitError(
            f"only {len(chosen)} of {len(outputs)} guard inputs get a clear answer from this "
            "variant, too few to check it on a device"
        )
    return Golden(
        inputs=np.ascontiguousarray(stored[chosen]),
        outputs=outputs[chosen],
        reference=reference[chosen],
        tolerance=tolerance,
    )
