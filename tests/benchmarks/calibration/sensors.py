"""What a shifted sensor makes of values in 0..1. Nothing is clipped or rounded unless it is said.

The bounds of the gate were chosen with other gains, offsets and tones in view than these, on other
pictures (`agent/workers/gate.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Sensor = Callable[[Images, np.random.Generator], Images]

SENSORS: Mapping[str, Sensor] = {
    "clean": lambda x, _rng: x,
    "gain x0.1": lambda x, _rng: 0.1 * x,
    "gain x4": lambda x, _rng: 4.0 * x,
    "gain x4 clipped": lambda x, _rng: np.minimum(4.0 * x, 1.0),
    "contrast x0.3": lambda x, _rng: 0.3 * (x - 0.5) + 0.5,
    "brightness +0.3": lambda x, _rng: x + 0.3,
    "gamma 0.45": lambda x, _rng: x**0.45,
    "gamma 2.2": lambda x, _rng: x**2.2,
    "fog": lambda x, _rng: 0.3 * x + 0.6,
    "invert": lambda x, _rng: 1.0 - x,
    "noise 0.15": lambda x, rng: x + 0.15 * rng.standard_normal(x.shape, dtype=np.float32),
}
UNDONE = ("gain x0.1", "gain x4", "contrast x0.3", "brightness +0.3", "gamma 0.45", "gamma 2.2",
          "fog")  # fmt: skip
"""Those that lose nothing, so that they can be undone."""


def seen(images: Images, sensor: Sensor, *, seed: int) -> Images:
    """Images in 0..1 as the sensor gives them."""
    return np.asarray(sensor(images, np.random.default_rng(seed)), dtype=np.float32)
