"""The operating point of a detector: its threshold, refitted for each variant.

Compression moves scores, so a threshold that kept the false alarms of fp32 low need not do so for
a variant. It is fitted on the guard set, where labels may choose, and judged there by the recall
that is left; the test set says what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.catalog.workload import GUARD, TEST, Detector, Split, Workload
from controller.compress import statistics
from controller.domain.evidence import OperatingPoint
from controller.errors import WorkloadError
from fitment.core.bundle import DecisionSpec

Array = NDArray[np.float32]
Scores = NDArray[np.float64]
LOG_ODDS, VALUE = "log_odds", "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    false_positives: int
    negatives: int
    found: int
    positives: int

    @property
    def false_positive_rate(self) -> float:
        return self.false_positives / self.negatives

    @property
    def recall(self) -> float:
        return self.found / self.positives


def gather(
    workload: Workload,
    splits: Mapping[str, Split],
    found: Mapping[str, Array],
    reference: Mapping[str, Array],
) -> OperatingPoint | None:
    """The point of a variant beside fp32's; None where the workload is no detector.

    Args:
        workload: says which class is detected, and how many false alarms it may cost.
        splits: guard and test, with their labels.
        found: outputs [N, …] of the variant, by split.
        reference: those of fp32.

    Raises:
        WorkloadError: outputs are no scores, or a set lacks either kind of input.
    """
    detector = workload.detector
    if detector is None:
        return None
    truth = {name: _truth(workload.name, name, splits[name], detector) for name in (GUARD, TEST)}
    own = {name: scores(workload.name, found[name], detector) for name in truth}
    fp32 = {name: scores(workload.name, reference[name], detector) for name in truth}
    limit = detector.false_positive_rate_max
    chosen, before = (threshold(s[GUARD], truth[GUARD], limit) for s in (own, fp32))
    guard, test = (_rates(own[name], truth[name], chosen) for name in (GUARD, TEST))
    unfitted = _rates(own[TEST], truth[TEST], before)
    return OperatingPoint(
        positive=detector.name,
        threshold=chosen,
        false_positive_rate_max=limit,
        guard_negatives=guard.negatives,
        guard_positives=guard.positives,
        guard_false_positive_rate=guard.false_positive_rate,
        guard_recall=guard.recall,
        guard_recall_drop=_rates(fp32[GUARD], truth[GUARD], before).recall - guard.recall,
        test_false_positive_rate=test.false_positive_rate,
        test_false_positive_interval=statistics.wilson(test.false_positives, test.negatives),
        test_recall=test.recall,
        test_recall_interval=statistics.wilson(test.found, test.positives),
        unfitted_false_positive_rate=unfitted.false_positive_rate,
        unfitted_recall=unfitted.recall,
    )


def decision(workload: Workload, point: OperatingPoint | None, width: int) -> DecisionSpec | None:
    """What the bundle says of it. ``width``: outputs of one input."""
    detector = workload.detector
    if point is None or detector is None:
        return None
    return DecisionSpec(
        positive=detector.name,
        index=detector.positive if width > 1 else 0,
        score=LOG_ODDS if width > 1 else VALUE,
        threshold=point.threshold,
        false_positive_rate_max=point.false_positive_rate_max,
    )


def scores(name: str, outputs: Array, detector: Detector) -> Scores:
    """A score [N] of each input: log-odds of class scores [N, C], or the one output itself.

    Raises:
        WorkloadError: outputs have another shape, or too few classes.
    """
    values = outputs.reshape(len(outputs), -1).astype(np.float64)
    if outputs.ndim > 2 or values.shape[1] <= (detector.positive if values.shape[1] > 1 else 0):
        raise WorkloadError(
            f"{name}: `operating_point` needs outputs (N,), (N, 1) or (N, classes) with class "
            f"{detector.positive} among them, not {outputs.shape}; leave it out"
        )
    if values.shape[1] == 1:
        return values[:, 0]
    others = np.delete(values, detector.positive, axis=1)
    highest = others.max(axis=1)
    rest = highest + np.log(np.exp(others - highest[:, None]).sum(axis=1))
    difference: Scores = values[:, detector.positive] - rest
    return difference


def threshold(found: Scores, positive: NDArray[np.bool_], limit: float) -> float:
    """The least threshold with a share of false alarms of at most ``limit``.

    It lies midway between the highest score that must not alarm and the next one above, so that
    another processor's rounding does not cross it.
    """
    negatives = np.sort(found[~positive])[::-1]
    allowed = int(np.floor(limit * len(negatives) + 1e-9))
    if allowed >= len(negatives):
        return float(found.min())
    barred = float(negatives[allowed])
    above = found[found > barred]
    return (barred + float(above.min())) / 2 if len(above) else float(np.nextafter(barred, np.inf))


def _truth(name: str, split: str, data: Split, detector: Detector) -> NDArray[np.bool_]:
    positive: NDArray[np.bool_] = data.labels == detector.positive
    if data.labels.ndim != 1 or not positive.any() or positive.all():
        raise WorkloadError(
            f"{name}: `operating_point` needs class numbers as labels, and data('{split}') with "
            f"some inputs of class {detector.positive} and some of others"
        )
    return positive


def _rates(found: Scores, positive: NDArray[np.bool_], limit: float) -> _Rates:
    alarm = found >= limit
    return _Rates(
        false_positives=int((alarm & ~positive).sum()),
        negatives=int((~positive).sum()),
        found=int((alarm & positive).sum()),
        positives=int(positive.sum()),
    )
