"""Loading: typed values, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from controller.catalog import workload
from controller.domain.fleet import Budget
from controller.errors import WorkloadError

Writer = Callable[..., Path]


def test_values_arrive_typed(write: Writer) -> None:
    extra = """
    input_scale = 0.5
    profile_budgets = {"rk3588": {"file_bytes_max": 1000.0}}
    recover = {"epochs": 2}
    preprocessing = {"size": 4}
    """
    loaded = workload.load(write(extra=extra))
    assert loaded.budget == Budget(accuracy_drop_max=0.02)
    assert loaded.profile_budgets["rk3588"].file_bytes_max == 1000
    assert loaded.preprocessing == {"size": "4"}
    assert loaded.recover == {"epochs": 2.0}
    stored = np.array([[2]], np.uint8)
    assert loaded.real(stored).dtype == np.float32
    assert loaded.real(stored)[0, 0] == 1.0


@pytest.mark.parametrize("signal", ["return None", "raise KeyError(split)"])
def test_no_training_split_is_said_by_none_or_by_key_error(write: Writer, signal: str) -> None:
    folder = write(("def data(split):", f"def data(split):\n    if split == 'train': {signal}"))
    loaded = workload.load(folder)
    assert loaded.optional_data("train") is None
    assert len(loaded.data("test")) == 64


def test_an_error_in_the_training_data_is_not_taken_for_none(write: Writer) -> None:
    folder = write(("def data(split):", "def data(split):\n    {}['absent']"))
    with pytest.raises(WorkloadError, match="absent"):
        workload.load(folder).optional_data("train")


def test_the_users_own_lines_are_shown(write: Writer) -> None:
    folder = write(("return Model()", "return open('nowhere.bin')"))
    with pytest.raises(WorkloadError, match=r"source\(\) failed: FileNotFoundError") as caught:
        workload.load(folder).source()
    assert "workload.py, line" in str(caught.value)
    assert "open('nowhere.bin')" in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import absent_module", "No module named 'absent_module'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("input_shape = (0,)", "positive integers"),
        ("input_scale = 0.0", "`input_scale` must be a positive number"),
        ("labels = 'abc'", "`labels` must be a tuple or list"),
        ("budget = {'accuracy': 1}", "no key 'accuracy'"),
        ("budget = {'agreement_min': 'high'}", "must be a number"),
        ("budget = {'agreement_min': -1}", "must be ≥ 0"),
        ("metric = 3", "`metric` must be a function"),
    ],
)
def test_a_bad_file_is_refused(write: Writer, extra: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        workload.load(write(extra=extra))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return inputs, inputs", "return inputs[:, :2], inputs", r"shape \(64, 2\); expected"),
        ("return inputs, inputs", "return inputs[:0], inputs", r"with N >= 1"),
        ("return inputs, inputs", "return inputs[1:], inputs", "first axes must be equal"),
        ("return inputs, inputs", "return inputs.astype(complex), inputs", "as uint8"),
        ("return inputs, inputs[:, :3].argmax(axis=1)", "return inputs", "must return"),
    ],
)
def test_wrong_data_is_refused(write: Writer, old: str, new: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        workload.load(write((old, new))).data("test")


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')"])
def test_a_metric_without_a_number_is_refused(write: Writer, value: str) -> None:
    loaded = workload.load(write(("return float((outputs", f"return {value} + float((outputs")))
    with pytest.raises(WorkloadError, match="finite number"):
        loaded.metric(np.zeros((2, 3)), np.zeros(2))


def test_a_source_that_is_neither_is_refused(write: Writer) -> None:
    with pytest.raises(WorkloadError, match="returned a int"):
        workload.load(write(("return Model()", "return 3"))).source()
    with pytest.raises(WorkloadError, match="add it to `files`"):
        workload.load(write(("return Model()", "return 'model.onnx'"))).source()
