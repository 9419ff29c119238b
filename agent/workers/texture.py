"""How rough inputs are: what noise adds, blur takes away, and no gain, offset or tone explains.

Two numbers, since neither tells enough alone. The von Neumann ratio (1941), the mean squared
difference of neighbours over twice the variance, is 0 for what is smooth and 1 for independent
noise; edges are most of it, so that little noise is lost in it. The lower quartile of the absolute
differences is that of flat places, where a little noise shows at once.
"""

from __future__ import annotations

import numpy as np

from agent.workers.runtimes.base import Array
from fitment.core.patch import Texture

QUIET = 0.25  # quantile
_AXES: dict[str, tuple[int, ...]] = {"NCHW": (2, 3), "NHWC": (1, 2)}
_IMAGE = 4  # axes of a batch of images
_PAIRS_MAX = 2**20  # that the quantile is taken of


def texture(samples: Array, layout: str = "NCHW") -> Texture | None:
    """Of all ``samples`` [N, …]; None where there are no neighbours or no variance.

    ``layout`` says where rows and columns of images are.
    """
    image = samples.ndim == _IMAGE
    known = _AXES.get(layout, _AXES["NCHW"]) if image else (samples.ndim - 1,)
    axes = [axis for axis in known if axis > 0 and samples.shape[axis] > 1]
    variance = float(samples.var(dtype="float64")) if len(samples) else 0.0
    if not axes or variance <= 0.0:
        return None
    stride = 1 + len(axes) * samples.size // _PAIRS_MAX
    squares, count, kept = 0.0, 0, []
    for sample in samples:  # one by one: memory is short
        for axis in axes:
            steps = np.diff(sample, axis=axis - 1).ravel().astype(np.float64)
            squares += float(steps @ steps)
            count += steps.size
            kept.append(np.abs(steps[::stride]).astype(np.float32))
    quiet = float(np.quantile(np.concatenate(kept), QUIET))
    return Texture(roughness=squares / count / (2.0 * variance), quiet=quiet)
