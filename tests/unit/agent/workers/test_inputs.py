"""Undoing a shift of the sensor: the formula, its inverse, and a session behind it."""

from __future__ import annotations

import numpy as np
import pytest

from agent.jobs import RuntimeOptions
from agent.workers import inputs, shift
from agent.workers.child import JobError
from agent.workers.runtimes.memory import MemoryRuntime, MemorySession
from fitment.core.patch import InputCorrection
from tests.integration import worker_models as models

VALUES = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 4)).astype(np.float32)
CORRECTIONS = [
    InputCorrection(tensor="x", gain=0.1, offset=0.0),
    InputCorrection(tensor="x", gain=4.0, offset=-0.7),
    InputCorrection(tensor="x", gain=0.5, offset=0.6, exponent=0.45, low=-1.0, high=1.0),
    InputCorrection(tensor="x", gain=1.0, offset=0.0, exponent=2.2, low=-1.0, high=1.0),
]


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_what_a_sensor_did_is_undone(correction: InputCorrection) -> None:
    shown = inputs.seen(correction, VALUES)
    assert np.allclose(inputs.corrected(correction, shown), VALUES, atol=2e-6)
    assert np.abs(shown - VALUES).max() > 0.1


def test_the_formula_by_hand() -> None:
    line = InputCorrection(tensor="x", gain=0.5, offset=0.1, low=-1.0, high=3.0)
    assert inputs.corrected(line, np.float32([0.1, 0.6])) == pytest.approx([0.0, 1.0], abs=1e-6)
    bent = InputCorrection(tensor="x", gain=0.5, offset=0.1, exponent=2.0, low=-1.0, high=3.0)
    # (0.6 - 0.1) / 0.5 = 1: half way from -1 to 3, whose root is 0.7071 of the way.
    assert inputs.corrected(bent, np.float32([0.6])) == pytest.approx([-1 + 4 * 0.5**0.5])
    below = inputs.corrected(bent, np.float32([-9.0]))  # darker than black
    assert below == pytest.approx([-1.0])


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_histogram_as_the_sensor_shows_it(correction: InputCorrection) -> None:
    many = np.random.default_rng(1).beta(2, 3, 200_000).astype(np.float32) * 2 - 1
    expected = shift.histogram(inputs.seen(correction, many))
    made = inputs.seen_histogram(correction, shift.histogram(many))
    assert shift.compare(expected, made).drift < 0.002


def _session(*, int8: bool = False) -> MemorySession:
    return MemoryRuntime().load(models.memory_affine(int8=int8), RuntimeOptions())


def test_feeds_are_left_as_they_were_and_the_buffer_is_kept() -> None:
    session = inputs.Corrected(_session(), CORRECTIONS[1])
    (feed,) = session.prepare([VALUES])
    before = feed.copy()
    first = session.raw([feed])[0]
    buffer = session._buffer
    assert np.array_equal(session.raw([feed])[0], first)
    assert session._buffer is buffer
    assert np.array_equal(feed, before)
    session.raw([feed[:2]])  # another shape gets another buffer
    assert np.array_equal(session.raw([feed])[0], first)


def test_a_quantized_input_is_fed_real_values_that_its_scale_does_not_hold() -> None:
    session = inputs.Corrected(
        _session(int8=True), InputCorrection(tensor="x", gain=20.0, offset=0)
    )
    assert (session.inputs[0].dtype, session.inputs[0].scale) == ("float32", None)
    wide = models.affine_inputs() * 20.0  # ±30, of which the file's int8 holds -5.2 to 5
    outputs = session.run([wide])[0]
    assert np.abs(outputs - models.affine(models.affine_inputs())).max() < 0.2


def test_another_input_than_the_overlays_is_refused() -> None:
    with pytest.raises(JobError, match="corrects the one input 'y', the model takes x") as caught:
        inputs.Corrected(_session(), InputCorrection(tensor="y", gain=1.0, offset=0.0))
    assert caught.value.code == "overlay_invalid"
