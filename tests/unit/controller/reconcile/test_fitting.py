"""Fits that a shift asked for: they wait for a device, are given up, or end with their trigger."""

from __future__ import annotations

from typing import Any

import pytest

from controller.domain import fleet
from controller.reconcile import fitting
from tests.unit.controller.reconcile.test_levels import NAMES, as_ever, live, settled_fleet


@pytest.fixture
def running(world: Any) -> Any:
    return settled_fleet(world)


def test_a_fit_after_a_shift_waits_for_a_device_and_never_goes_by_predictions(
    running: Any,
) -> None:
    world = running
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.times_ms, device.hears_studies = {"fp32": 1.0, "int8": 1.6}, False
    live(world, 1, lambda _name: {"ms": 5.3}, turns=20)
    (trigger,) = world.store.triggers.find()
    for device in world.devices.values():
        device.disconnect()
    world.clock.advance(world.settings.study_timeout_s + 1.0)
    world.settle(20)
    job = world.job(trigger.job)
    assert (job.choice, job.step) == (None, "waiting for a device of the cohort to come back")
    for device in world.devices.values():
        device.hears_studies = True
        device.connect()
    world.until(lambda: world.job(trigger.job).choice is not None)
    asked = [world.store.studies.get(key) for key in world.job(trigger.job).studies]
    assert asked
    assert all(study.measurement is not None for study in asked)


def test_a_fit_after_a_shift_is_given_up_where_nobody_comes(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.hears_studies = False
    live(world, 1, lambda _name: {"ms": 5.3}, turns=20)
    for device in world.devices.values():
        device.disconnect()
    world.clock.advance(fitting.FRESH_MOST_S + 1.0)
    world.settle(20)
    (trigger,) = world.store.triggers.find()
    assert "no device of the cohort timed its variants within a day" in trigger.result
    assert {world.runs(name) for name in NAMES} == {"int8"}


def test_what_is_refused_is_not_fitted_any_further(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.hears_studies = False
    live(world, 1, lambda _name: {"ms": 5.3}, turns=20)
    (trigger,) = world.store.triggers.find()
    assert world.job(trigger.job).status is fleet.JobStatus.CONFIRMING
    world.controller.close_trigger(trigger.id, "it is the weather")
    job = world.job(trigger.job)
    assert job.status is fleet.JobStatus.FAILED
    assert job.error == "its trigger was closed: closed by an operator: it is the weather"
    assert world.store.studies.find(done_at=0.0) == (), "devices are asked no more"
    assert not world.fits.known(job.id)
