"""Which weights stay, given their scores: a share of each row or layer, or N of every M."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.compress.prune.sparse.layers import Double
from controller.errors import FitError

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Of every ``of`` weights in a row, ``keep`` stay (Mishra et al. 2021, arXiv:2104.08378).

    The row runs along the input channels, as NVIDIA's sparse tensor cores read it.
    """

    keep: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """``"2:4"``, or None for an empty text.

        Raises:
            FitError: it is neither.
        """
        if not text:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise FitError(f"'{text}' is no pattern such as 2:4, two of every four weights")
        return cls(keep=int(match[1]), of=int(match[2]))

    def order(self, columns: int, window: int) -> NDArray[np.intp] | None:
        """Order of a layer's columns (channel, window) in which the pattern's rows lie.

        Groups are of neighbouring input channels at the same place of the window. None where the
        channels are no multiple of the pattern.
        """
        channels = columns // window
        if channels % self.of:
            return None
        return np.arange(columns).reshape(channels, window).T.ravel()


def cheapest(scores: Double, share: float) -> Mask:
    """The ``share`` with the lowest scores, rounded to the nearest count; ties by place."""
    gone: Mask = np.zeros(scores.size, bool)
    count = round(share * scores.size)
    gone[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return gone.reshape(scores.shape)


def by_row(scores: Double, share: float) -> Mask:
    """The ``share`` with the lowest scores of every output."""
    return np.stack([cheapest(row, share) for row in scores])


def in_pattern(scores: Double, pattern: Pattern) -> Mask:
    """Which stay of scores [outputs, K], whose columns are in the pattern's order."""
    rows = scores.reshape(-1, pattern.of)
    places = np.argsort(-rows, axis=1, kind="stable")[:, : pattern.keep]
    stays: Mask = np.zeros(rows.shape, bool)
    np.put_along_axis(stays, places, values=True, axis=1)
    return stays.reshape(scores.shape)
