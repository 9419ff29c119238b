"""What devices measured goes into the predictions of later fits, and of a fit that is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.tickets import Ticket
from controller.testing import variant
from fitment.core.measurement import CostKind, Verdict


def parted(name: str, ms: float, **more: float) -> fleet.Variant:
    return replace(variant(name, ms, **more), predicted_parts={"run": 0.1 * ms, "conv": 0.9 * ms})


@pytest.fixture
def fitted(world: Any) -> Any:
    """Two devices, one fit: everything takes half as long again as was predicted."""
    world.variants = (parted("fp32", 1.0), parted("int8", 0.4, drop=0.004))
    world.fits._variants = world.variants
    for name in ("a", "b"):
        world.join(name, times_ms={"fp32": 1.5, "int8": 0.6})
    world.released()
    return world


def test_a_later_fit_is_told_what_devices_measured_over_predictions(fitted: Any) -> None:
    world = fitted
    (first,) = world.store.jobs.find()
    assert first.residuals == ()
    second = replace(world.model, id="model-2", name="n", digest="sha256:n")
    world.controller.register_model(second)
    (job,) = world.controller.start_fits("model-2")
    world.until(lambda: world.job(job.id).status is fleet.JobStatus.DONE)
    (known,) = world.job(job.id).residuals
    assert (known.runtime, known.pairs, known.devices) == ("onnx", 2, 1)
    assert 1.0 < known.parts["conv"] < 1.5
    assert world.fits.requests[job.id]["residuals"][0]["runtime"] == "onnx"


def test_a_fit_that_is_there_is_priced_anew_and_stays_a_prediction(fitted: Any) -> None:
    world = fitted
    (again,) = world.controller.start_fits(world.model.id)
    assert again.cached
    for before, after in zip(world.variants, again.variants, strict=True):
        assert after.predicted.kind is CostKind.INTERPOLATED
        assert after.predicted.devices == 1
        assert before.predicted.value < after.predicted.value < 1.5 * before.predicted.value
        assert after.predicted_parts == before.predicted_parts


def test_a_fit_whose_teacher_fell_ill_says_that_nothing_corrects_it(fitted: Any) -> None:
    world = fitted
    (job,) = world.controller.start_fits(world.model.id)
    assert job.residuals
    world.until(lambda: world.job(job.id).status is fleet.JobStatus.DONE)
    for name in ("a", "b"):
        world.store.tickets.add(Ticket(
            id=name, device=name, model="m", slot="m", variant="v", cohort=job.cohort,
            opened_at=1.0, updated_at=1.0, summary="slow",
        ))  # fmt: skip
    (again,) = world.controller.start_fits(world.model.id)
    assert again.residuals == ()
    assert all(v.predicted.devices == 0 for v in again.variants)


def test_what_was_disturbed_teaches_nothing(world: Any) -> None:
    world.variants = (parted("fp32", 1.0),)
    world.fits._variants = world.variants
    world.join("a", times_ms={"fp32": 1.5}, verdict=Verdict.CONTENDED)
    world.released()
    (again,) = world.controller.start_fits(world.model.id)
    assert again.residuals == ()
    assert again.variants[0].predicted.devices == 0
