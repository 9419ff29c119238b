"""Which classes the answers name."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers.serving.predictions import NAMED, WINDOW, PredictionWatch


def scores(classes: list[int], of: int = 4, dtype: str = "float32") -> np.ndarray:
    return (np.eye(of)[classes] * 100).astype(dtype)


def test_shares_of_the_classes_are_counted_in_floats_and_in_integers() -> None:
    for dtype in ("float32", "int8"):
        watch = PredictionWatch(every=1)
        assert watch.report() is None
        watch.ran(scores([0, 1, 1, 3], dtype=dtype), 4)
        assert watch.report() == {"0": 0.25, "1": 0.5, "3": 0.25}


def test_old_answers_fade() -> None:
    watch = PredictionWatch(every=1)
    watch.ran(scores([0] * WINDOW), WINDOW)
    for _ in range(8):
        watch.ran(scores([1] * WINDOW), WINDOW)
    report = watch.report()
    assert report is not None
    assert report["1"] > 0.99


def test_many_classes_have_a_rest() -> None:
    watch = PredictionWatch(every=1)
    watch.ran(scores([0, NAMED, 99], of=100), 3)
    assert watch.report() == pytest.approx({"0": 1 / 3, "rest": 2 / 3})


def test_what_is_no_score_a_class_is_left_alone() -> None:
    watch = PredictionWatch(every=1)
    for output, rows in (
        (np.zeros((4, 1)), 4), (np.zeros((4, 8, 8)), 4), (np.zeros(4), 4), (np.zeros((9, 3)), 4),
    ):  # fmt: skip
        watch.ran(output, rows)
    assert watch.report() is None
    off = PredictionWatch(every=0)
    off.ran(scores([1]), 1)
    assert off.report() is None
