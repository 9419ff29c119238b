"""What the served inputs look like, for drift: moments and a histogram, never a sample."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent.workers import shift
from agent.workers.runtimes import base
from agent.workers.runtimes.base import Array, Tensor
from fitment.core.histogram import Histogram

BINS: Final = 64
_WIDEN: Final = 0.5  # of the first samples' range, on either side: later ones may lie outside


class InputStatistics:
    """One input: Chan, Golub and LeVeque's (1979) merge of moments, and a histogram.

    The histogram's edges are those of the reference where the bundle has one, otherwise a wider
    range than the first samples had; they stay, so that the histograms of hours add up.
    """

    def __init__(self, tensor: Tensor, reference: Histogram | None) -> None:
        self._tensor = tensor
        self._reference = reference
        self._count = 0  # values
        self._samples = 0
        self._mean = self._squares = 0.0
        self._low, self._high = math.inf, -math.inf
        self._edges = (reference.low, reference.high) if reference is not None else None
        self._bins = np.zeros(BINS, dtype=np.int64)

    def add(self, native: Array) -> None:
        """Take in one run's feed; values that are not finite are left out."""
        values = base.to_real(self._tensor, native).ravel().astype(np.float64)
        if not np.isfinite(values).all():
            values = values[np.isfinite(values)]
        self._samples += len(native) if native.ndim else 1
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        mean = float(values.mean())
        squares = float(np.sum((values - mean) ** 2))
        total = self._count + values.size
        apart = mean - self._mean
        self._squares += squares + apart**2 * self._count * values.size / total
        self._mean += apart * values.size / total
        self._count = total
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._edges is None:
            spread = (high - low) or abs(low) or 1.0
            self._edges = (low - _WIDEN * spread, high + _WIDEN * spread)
        inside = np.clip(values, *self._edges)
        self._bins += np.histogram(inside, bins=BINS, range=self._edges)[0]

    def report(self) -> dict[str, Any] | None:
        """As JSON; None before the first value. Units are the input's own."""
        if not self._count or self._edges is None:
            return None
        low, high = self._edges
        found = Histogram(low=low, high=high, counts=tuple(int(n) for n in self._bins))
        compared = shift.compare(self._reference, found) if self._reference is not None else None
        return {
            "samples": self._samples,
            "mean": self._mean,
            "std": math.sqrt(self._squares / self._count),
            "min": self._low,
            "max": self._high,
            "histogram": {"low": low, "high": high, "counts": list(found.counts)},
            "drift": None if compared is None else compared.drift,
        }


class InputWatch:
    """The inputs of one loaded model: every n-th run is looked at."""

    def __init__(
        self, tensors: Sequence[Tensor], *, every: int, reference: Histogram | None = None
    ) -> None:
        """``every`` runs; 0: none. The reference is that of the first input."""
        self._every = every
        self._lock = threading.Lock()
        self._runs = 0
        self._found = {
            tensor.name: InputStatistics(tensor, None if number else reference)
            for number, tensor in enumerate(tensors)
        }

    def ran(self, requests: Sequence[Sequence[Array]]) -> None:
        """Look at the inputs of a run, when it is one to look at."""
        if not self._every:
            return
        with self._lock:
            self._runs += 1
            if (self._runs - 1) % self._every:
                return
            for feeds in requests:
                for statistics, feed in zip(self._found.values(), feeds, strict=True):
                    statistics.add(feed)

    def report(self) -> Mapping[str, Any]:
        """By input's name; null before there was one."""
        with self._lock:
            return {name: found.report() for name, found in self._found.items()}
