"""NCHW to NHWC. Every tensor of rank 4 is NHWC in the file; others keep their axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TO_NHWC = (0, 2, 3, 1)  # axes of the source in the order of the file
TO_NCHW = (0, 3, 1, 2)
POSITION = {0: 0, 1: 3, 2: 1, 3: 2}  # where an axis of the source lies in the file


def file_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape in the file of a tensor with this shape in the source."""
    return tuple(shape[a] for a in TO_NHWC) if len(shape) == 4 else tuple(shape)


def file_axis(axis: int, rank: int) -> int:
    """Axis in the file of an axis of the source (which may be negative)."""
    axis %= max(rank, 1)
    return POSITION[axis] if rank == 4 else axis


def file_perm(perm: Sequence[int], rank: int) -> tuple[int, ...]:
    """The transposition in the file that ``perm`` is in the source, where both have rank 4."""
    if rank != 4:
        return tuple(perm)
    return tuple(POSITION[perm[axis]] for axis in TO_NHWC)


def operand(values: NDArray[Any], rank: int) -> NDArray[Any]:
    """A constant that is broadcast against tensors of ``rank``, in the file's layout."""
    if rank != 4 or values.ndim == 0:
        return values
    padded = values.reshape((1,) * (4 - values.ndim) + values.shape)
    return np.ascontiguousarray(padded.transpose(TO_NHWC))


def moves(shape: Sequence[int]) -> bool:
    """Whether NCHW and NHWC order the values of this source shape differently."""
    return len(shape) == 4 and shape[1] != 1 and shape[2] * shape[3] != 1


def same_padding(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Pads (top, left, bottom, right) that ``SAME`` means: the odd one goes to the end."""
    begins, ends = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return (*begins, *ends)
