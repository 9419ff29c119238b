"""What the served inputs look like."""

from __future__ import annotations

import numpy as np
import pytest

from agent.workers import shift
from agent.workers.runtimes.base import Tensor
from agent.workers.serving.inputs import BINS, InputStatistics, InputWatch

FLOAT = Tensor(name="x", dtype="float32", shape=(-1, 4))
QUANTIZED = Tensor(name="x", dtype="int8", shape=(-1, 4), scale=0.5, zero_point=2)
RNG = np.random.default_rng(3)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    values = RNG.normal(5.0, 2.0, (1000, 4)).astype(np.float32)
    found = InputStatistics(FLOAT, None)
    for part in np.split(values, [1, 17, 500]):
        found.add(part)
    report = found.report()
    assert report is not None
    assert report["samples"] == 1000
    assert report["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert report["std"] == pytest.approx(float(values.std()), rel=1e-5)
    assert (report["min"], report["max"]) == (float(values.min()), float(values.max()))
    assert len(report["histogram"]["counts"]) == BINS
    assert sum(report["histogram"]["counts"]) == values.size
    assert report["drift"] is None  # there is nothing to compare with


def test_quantized_inputs_are_told_in_real_values() -> None:
    found = InputStatistics(QUANTIZED, None)
    found.add(np.full((3, 4), 12, dtype=np.int8))
    report = found.report()
    assert report is not None
    assert (report["mean"], report["std"], report["min"]) == (5.0, 0.0, 5.0)


def test_values_that_are_not_finite_are_left_out() -> None:
    found = InputStatistics(FLOAT, None)
    found.add(np.array([[np.nan, np.inf, -np.inf, np.nan]], dtype=np.float32))
    assert found.report() is None
    found.add(np.array([[1.0, np.nan, 3.0, 2.0]], dtype=np.float32))
    report = found.report()
    assert report is not None
    assert (report["mean"], report["samples"]) == (2.0, 2)


@pytest.mark.parametrize(("gain", "least", "most"), [(1.0, 0.0, 0.01), (0.5, 0.1, 0.5)])
def test_drift_is_told_from_none(gain: float, least: float, most: float) -> None:
    reference = shift.histogram(RNG.uniform(0.0, 1.0, 20_000))
    found = InputStatistics(FLOAT, reference)
    found.add((gain * RNG.uniform(0.0, 1.0, (5000, 4))).astype(np.float32))
    report = found.report()
    assert report is not None
    assert least <= report["drift"] <= most
    edges = report["histogram"]
    assert (edges["low"], edges["high"]) == (reference.low, reference.high)


@pytest.mark.parametrize(("every", "samples"), [(1, 10), (4, 3), (100, 1)])
def test_every_nth_run_is_looked_at(every: int, samples: int) -> None:
    watch = InputWatch([FLOAT], every=every)
    for _ in range(10):
        watch.ran([[np.ones((1, 4), dtype=np.float32)]])
    assert watch.report()["x"]["samples"] == samples


def test_nothing_is_looked_at_when_it_is_off() -> None:
    watch = InputWatch([FLOAT], every=0)
    watch.ran([[np.ones((1, 4), dtype=np.float32)]])
    assert watch.report() == {"x": None}
