"""What is known of a variant by parts of the data and, of a detector, at its threshold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEvidence:
    """The workload's metric on one part of the data: a class, or a slice that the user named."""

    name: str
    guard_count: int
    guard_fp32: float
    guard_value: float
    test_count: int
    test_fp32: float
    test_value: float

    @property
    def guard_drop(self) -> float:
        """By how much the variant is worse than fp32 on the guard set."""
        return self.guard_fp32 - self.guard_value


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """What a detector does at the threshold that was refitted for this variant.

    An alarm is a score of ``threshold`` or more. The threshold is fitted on the guard set, to no
    more false alarms than the workload allows; what it really does is read off the test set.
    """

    positive: str  # the class that is detected
    threshold: float
    false_positive_rate_max: float  # the user's
    guard_negatives: int
    guard_positives: int
    guard_false_positive_rate: float
    guard_recall: float
    guard_recall_drop: float  # fp32's at its own threshold, less this
    test_false_positive_rate: float
    test_false_positive_interval: tuple[float, float]  # 95 %, Wilson
    test_recall: float
    test_recall_interval: tuple[float, float]
    unfitted_false_positive_rate: float  # on test, had fp32's threshold been kept
    unfitted_recall: float
