"""Which classes the answers name, for a change of the mix: counts, never an answer or its input."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np

from agent.workers.runtimes.base import Array

NAMED: Final = 16
"""Classes that are told apart, by their number; the others are one, ``rest``."""
WINDOW: Final = 2048
"""Answers after which older ones count half, so that shares are those of lately."""


class PredictionWatch:
    """The answers of one loaded model; every n-th run is looked at."""

    def __init__(self, *, every: int) -> None:
        """``every`` runs; 0: none."""
        self._every = every
        self._lock = threading.Lock()
        self._runs = 0
        self._counts = np.zeros(NAMED + 1, dtype=np.float64)

    def ran(self, output: Array, rows: int) -> None:
        """Look at a run's first output, where it is a score for each class of each sample.

        The greatest score is the greatest in a quantized output's own integers, too.
        """
        if not self._every or output.ndim != 2 or len(output) != rows or output.shape[1] < 2:
            return
        with self._lock:
            self._runs += 1
            if (self._runs - 1) % self._every:
                return
            classes = np.minimum(output.argmax(axis=1), NAMED)
            self._counts += np.bincount(classes, minlength=NAMED + 1)
            if self._counts.sum() >= WINDOW:
                self._counts /= 2

    def report(self) -> Mapping[str, float] | None:
        """Shares by class number, those that nobody named left out; None before the first."""
        with self._lock:
            counts = self._counts.copy()
        total = float(counts.sum())
        if not total:
            return None
        names = [*map(str, range(NAMED)), "rest"]
        return {name: count / total for name, count in zip(names, counts, strict=True) if count}
