"""What counts as a right answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent.jobs import RuntimeOptions
from agent.workers import goldens
from agent.workers.installed import Goldens
from agent.workers.runtimes.memory import MemoryRuntime, MemorySession

INPUTS = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)


def _session(weight: list[list[float]]) -> MemorySession:
    spec = {"weight": weight, "bias": [0.0] * len(weight), "shape": [-1, 2]}
    return MemoryRuntime().load(json.dumps(spec).encode(), RuntimeOptions())


def _goldens(outputs: list[list[float]], tolerance: float = 0.1) -> Goldens:
    array = np.array(outputs, dtype=np.float32)
    return Goldens(inputs=INPUTS, outputs=array, reference=array, tolerance=tolerance)


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


def test_equal_answers_are_right() -> None:
    answer = goldens.evaluate(_session(IDENTITY), _goldens(IDENTITY))
    assert (answer.golden_ok, answer.worst_error, answer.reason) == (True, 0.0, "")
    assert (answer.agreement, answer.sqnr_db) == (1.0, goldens.SQNR_CAP_DB)


def test_an_output_beyond_the_tolerance_is_wrong() -> None:
    answer = goldens.evaluate(_session(IDENTITY), _goldens([[1.2, 0.0], [0.0, 1.0]]))
    assert not answer.golden_ok
    assert answer.reason == "an output is 0.2 off, 0.1 is allowed"


def test_a_flip_within_the_tolerance_is_wrong() -> None:
    answer = goldens.evaluate(
        _session([[0.50, 0.0], [0.52, 1.0]]), _goldens([[0.55, 0.50], [0.0, 1.0]])
    )
    assert not answer.golden_ok
    assert answer.reason == "1 of 2 golden inputs change their top-1"


def test_a_recorded_tie_may_be_broken_either_way() -> None:
    answer = goldens.evaluate(
        _session([[0.50, 0.0], [0.52, 1.0]]), _goldens([[0.50, 0.50], [0.0, 1.0]])
    )
    assert answer.golden_ok


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_wrong(value: float) -> None:
    session = _session([[value, 0.0], [0.0, 1.0]])
    answer = goldens.evaluate(session, _goldens(IDENTITY))
    assert not answer.golden_ok
    assert answer.worst_error == goldens.WORST_ERROR_CAP
    assert "not finite" in answer.reason


def test_another_shape_is_wrong() -> None:
    answer = goldens.evaluate(_session([[1.0, 0.0]]), _goldens(IDENTITY))
    assert "recorded ones (2, 2)" in answer.reason


def test_sqnr_is_the_ratio_of_energies() -> None:
    reference = np.array([[10.0, 0.0]])
    assert goldens.sqnr_db(reference, np.array([[11.0, 0.0]])) == pytest.approx(20.0)
    assert goldens.sqnr_db(np.zeros((1, 2)), reference) is None


def test_agreement_is_the_share_of_equal_top_1() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    outputs = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 9.0], [3.0, 0.0]])
    assert goldens.agreement(reference, outputs) == 0.75
