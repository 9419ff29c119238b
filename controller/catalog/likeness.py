"""Whether two sets of inputs come from the same source, as far as their numbers tell.

Ranges are set on one calibration set and judged on the other. Where these differ by more than
chance, either is too small or one of them is not what devices will see.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import samples
from controller.catalog.workload import Split

LOOKED_AT = 512  # samples of each set
SHIFT = 0.5  # of a standard deviation
RATIO = 1.5  # of standard deviations


def difference(one: Split, other: Split) -> str:
    """How two sets differ, in words; nothing when they are alike, or are tokens."""
    named = samples.names(one.inputs) or ("",)
    for name in named:
        pair = [_values(split, name) for split in (one, other)]
        if any(values.dtype.kind not in "fu" for values in pair):
            continue  # numbers that are names have no mean
        means, spreads = ([float(f(v)) for v in pair] for f in (np.mean, np.std))
        widest, least = max(spreads), min(spreads)
        shifted = abs(means[0] - means[1]) > SHIFT * max(widest, 1e-12)
        if shifted or widest > RATIO * max(least, 1e-12):
            what = f"of '{name}' " if name else ""
            return (
                f"mean {what}{means[0]:.4g} and {means[1]:.4g}, "
                f"standard deviation {spreads[0]:.4g} and {spreads[1]:.4g}"
            )
    return ""


def _values(split: Split, name: str) -> NDArray[Any]:
    inputs = split.inputs[:LOOKED_AT]
    return inputs[name] if name else inputs
