"""The operating point of a detector: the threshold is refitted, and test data only report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.catalog.workload import Detector, Split, Workload
from controller.compress import operating
from controller.domain.choice import choose
from controller.domain.evidence import OperatingPoint
from controller.domain.fleet import Budget
from controller.errors import WorkloadError
from tests.unit.controller.domain.test_choice import variant

DETECTOR = Detector(positive=1, name="spam", false_positive_rate_max=0.1)
WORKLOAD = Workload(name="mail", version="1", folder=Path(), input_shape=(2,), detector=DETECTOR)


def sample(seed: int, count: int = 400) -> tuple[Split, np.ndarray]:
    """Every tenth input is positive; outputs [N, 2] tell them apart, not always."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 10 == 0).astype(np.int64)
    score = random.normal(2.5 * labels, 1.0)
    outputs = np.stack([-score / 2, score / 2], axis=1).astype(np.float32)
    return Split(inputs=np.zeros((count, 2), np.float32), labels=labels), outputs


GUARD, FP32_GUARD = sample(1)
TEST, FP32_TEST = sample(2)
SPLITS = {"calibration_b": GUARD, "test": TEST}


def point(shift: float) -> OperatingPoint:
    """Of a variant whose scores all moved by ``shift``."""
    moved = np.array([0.0, shift], np.float32)
    found = operating.gather(
        WORKLOAD,
        SPLITS,
        {"calibration_b": FP32_GUARD + moved, "test": FP32_TEST + moved},
        {"calibration_b": FP32_GUARD, "test": FP32_TEST},
    )
    assert found is not None
    return found


def test_a_threshold_moves_with_the_scores_and_the_detector_stays_what_it_was() -> None:
    still, moved = point(0.0), point(1.5)
    assert moved.threshold == pytest.approx(still.threshold + 1.5, abs=1e-4)
    assert moved.guard_recall_drop == 0.0
    assert moved.test_recall == still.test_recall
    assert moved.test_false_positive_rate == still.test_false_positive_rate
    # With fp32's threshold the same variant would raise four times the alarms it may.
    assert moved.unfitted_false_positive_rate > 4 * still.test_false_positive_rate
    assert still.unfitted_false_positive_rate == still.test_false_positive_rate


def test_the_limit_holds_on_guard_and_is_nearly_used_up() -> None:
    found = point(0.0)
    assert (found.guard_negatives, found.guard_positives) == (360, 40)
    assert found.guard_false_positive_rate == pytest.approx(0.1)
    low, high = found.test_false_positive_interval
    assert low < found.test_false_positive_rate < high


@pytest.mark.parametrize(
    ("scores", "positive", "limit", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], [0, 0, 0, 1], 0.0, 2.5),
        ([0.0, 1.0, 2.0, 3.0], [0, 0, 0, 1], 0.34, 1.5),
        ([0.0, 1.0, 1.0, 3.0], [0, 0, 0, 1], 0.34, 2.0),  # ties alarm together or not at all
        ([0.0, 3.0, 3.0], [1, 0, 0], 0.1, math.nextafter(3.0, 4.0)),
    ],
)
def test_the_least_threshold_that_keeps_the_limit(
    scores: list[float], positive: list[int], limit: float, expected: float
) -> None:
    found = np.array(scores)
    truth = np.array(positive, bool)
    made = operating.threshold(found, truth, limit)
    assert made == expected
    assert (found[~truth] >= made).mean() <= limit


def test_scores_of_several_classes_are_log_odds_and_of_one_output_itself() -> None:
    outputs = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    assert operating.scores("x", outputs, DETECTOR)[0] == pytest.approx(
        math.log(0.5 / 0.5), abs=1e-6
    )
    assert operating.scores("x", np.array([[0.7]], np.float32), DETECTOR)[0] == np.float32(0.7)
    with pytest.raises(WorkloadError, match="leave it out"):
        operating.scores("x", np.zeros((2, 3, 4), np.float32), DETECTOR)


def test_a_set_without_positives_is_refused_by_name() -> None:
    empty = Split(inputs=GUARD.inputs, labels=np.zeros_like(GUARD.labels))
    with pytest.raises(WorkloadError, match=r"data\('calibration_b'\) with some inputs of class 1"):
        operating.gather(WORKLOAD, {**SPLITS, "calibration_b": empty}, {}, {})


def test_a_variant_that_lost_recall_is_not_chosen() -> None:
    bad = OperatingPoint(
        positive="spam", threshold=0.0, false_positive_rate_max=0.1, guard_negatives=10,
        guard_positives=10, guard_false_positive_rate=0.1, guard_recall=0.8, guard_recall_drop=0.1,
        test_false_positive_rate=0.1, test_false_positive_interval=(0.0, 1.0), test_recall=0.8,
        test_recall_interval=(0.0, 1.0), unfitted_false_positive_rate=0.5, unfitted_recall=0.9,
    )  # fmt: skip
    found = choose([replace(variant("int8", 1.0), operating=bad)], Budget(recall_drop_max=0.05), {})
    assert not found.chosen
    assert "drop of recall at the operating point 0.1 is above 0.05" in found.reason
