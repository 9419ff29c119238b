"""The whole loop: probe, fit, confirm, release, roll out, and again when a device changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.domain import choice, fleet
from controller.domain.fleet import JobStatus, RolloutState
from controller.reconcile.context import ReconcileSettings
from controller.reconcile.fitting import COMING_BACK_S
from controller.reconcile.rolling import RolloutPlan
from controller.store.base import Store
from controller.testing import ScriptedFits, fingerprint, variant
from fitment.core.deployment import Outcome, StudyKind
from fitment.core.fingerprint import Facet
from fitment.core.measurement import Verdict

COLLECTIONS = (
    "devices", "tokens", "models", "jobs", "studies", "releases", "rollouts", "deployments",
    "triggers", "audit",
)  # fmt: skip


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'f.db'}"


def everything(store: Store) -> dict[str, Any]:
    return {name: getattr(store, name).find() for name in COLLECTIONS}


def test_a_fit_asks_the_device_first_and_lets_it_confirm(world: Any) -> None:
    world.join("a")
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits("model-1")
    assert job.status is JobStatus.QUEUED
    world.turn()
    assert world.job(job.id).status is JobStatus.PROBING
    world.turn()
    assert world.job(job.id).status is JobStatus.RUNNING
    (request,) = world.fits.requests.values()
    assert [t["runtime"] for t in request["kernel_tables"]] == ["onnx"]
    assert request["machine"] == "x86_64"
    assert request["budget"]["accuracy_drop_max"] == 0.01
    world.until(lambda: world.job(job.id).status is JobStatus.DONE)
    done = world.job(job.id)
    assert done.choice is not None
    assert "0.300 ms p50 measured, 3.3 times faster than fp32" in done.choice.reason
    assert "guard accuracy -0.40 points of 1.0 allowed" in done.choice.reason
    asked = [s.bundle.name for s in world.store.studies.find(kind=StudyKind.BENCHMARK)]
    assert sorted(asked) == ["fp32", "int8"]  # "tiny" cannot keep to the budget
    assert world.blobs.has(done.variants[0].bundle.archive)


def test_what_an_emulator_times_is_neither_asked_for_nor_gone_by(world: Any) -> None:
    seen = fingerprint(emulated=True)
    facts = dict(seen.hardware.facts) | {"translated_on": "x86_64"}
    # By its own times fp32 would be the fastest by far, and int8 over every budget.
    world.join("a", seen=replace(seen, hardware=Facet.of(facts)), verdict=Verdict.EMULATED,
               times_ms={"fp32": 0.001, "int8": 9000.0, "tiny": 9000.0})  # fmt: skip
    world.model = replace(world.model, budget=replace(world.model.budget, latency_p95_max_ms=5.0))
    release = world.released()
    (job,) = world.store.jobs.find()
    assert world.store.studies.find() == ()
    assert job.choice is not None
    assert "ms p50 measured" not in job.choice.reason
    made = world.controller.create_rollout(release.id, RolloutPlan())
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert world.runs("a") == "int8"
    (deployment,) = world.store.deployments.find()
    assert deployment.measurement is not None
    assert deployment.measurement.verdict is Verdict.EMULATED
    world.settle()
    assert world.store.triggers.find() == ()
    again = choice.choose(
        job.variants, world.model.budget, {deployment.variant: deployment.measurement}
    )
    assert again.chosen == deployment.variant
    assert "measured" not in again.reason


def test_a_controller_that_just_started_waits_for_the_device_to_confirm(world: Any) -> None:
    twin = world.join("a")
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits("model-1")
    world.until(lambda: world.job(job.id).status is JobStatus.RUNNING)
    twin.online = False  # its link went with the controller
    restart(world)
    world.turn()
    world.turn()
    assert world.job(job.id).status is JobStatus.RUNNING
    assert world.job(job.id).step == "waiting for a device of the cohort to come back"
    twin.online = True
    twin.connect()
    world.until(lambda: world.job(job.id).status is JobStatus.DONE)
    choice = world.job(job.id).choice
    assert choice is not None
    assert "p50 measured" in choice.reason


def test_a_fit_does_not_wait_for_ever_for_a_device_that_is_gone(world: Any) -> None:
    twin = world.join("a")
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits("model-1")
    world.until(lambda: world.job(job.id).status is JobStatus.RUNNING)
    twin.online = False
    restart(world)
    world.clock.advance(COMING_BACK_S)
    world.turn()
    world.turn()
    assert world.job(job.id).status is JobStatus.DONE


def test_a_second_device_of_the_cohort_pays_nothing(world: Any) -> None:
    world.join("a")
    world.released()
    world.join("b")
    (job,) = world.controller.start_fits("model-1")
    world.until(lambda: world.job(job.id).status is JobStatus.DONE)
    assert world.job(job.id).cached
    assert len(world.fits.requests) == 1


def test_from_a_release_to_every_device(world: Any) -> None:
    for name in "abc":
        world.join(name)
    release = world.released()
    rollout = world.controller.create_rollout(release.id, RolloutPlan())
    world.until(lambda: world.rollout(rollout.id).state is RolloutState.COMPLETED)
    assert [world.runs(name) for name in "abc"] == ["int8"] * 3
    waves = [d.wave for d in world.store.deployments.find(rollout=rollout.id)]
    assert waves == [0, 1, 2]
    assert world.actions().count("wave_opened") == 2
    assert world.devices["a"].generations == sorted(set(world.devices["a"].generations))


def test_a_changed_stack_is_fitted_again_for_that_device_alone(world: Any) -> None:
    for name in "ab":
        world.join(name)
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.settle()
    changed = world.devices["a"]
    changed.times_ms = {"fp32": 1.0, "int8": 4.0, "tiny": 0.2}  # int8 kernels are gone
    changed.change(fingerprint(runtime="1.32"))
    world.until(lambda: bool(world.store.triggers.find()))
    world.settle()
    (trigger,) = world.store.triggers.find()
    assert "runtime.onnx '1.31' → '1.32'" in trigger.reason
    assert "golden answers right" in trigger.reason
    assert trigger.closed_at
    assert "rollout completed: 1 of 1 committed" in trigger.result
    assert "a: 1.000 ms p50, before 4.000 ms on the same stack" in trigger.result
    assert (world.runs("a"), world.runs("b")) == ("fp32", "int8")
    again = world.store.releases.get(trigger.release)
    assert again is not None
    assert again.counter == release.counter + 1
    assert set(again.variants) == {trigger.cohort.key}
    assert all(gates.latency_ratio_max is None for gates in again.gates.values())
    world.settle()
    assert len(world.store.triggers.find()) == 1, "the loop must come to rest"


def test_a_trigger_waits_for_the_golden_answers_on_the_new_stack(world: Any) -> None:
    """Answers that were given on the old stack would say that all is well."""
    device = world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.settle()
    device.rechecks = False
    device.change(fingerprint(runtime="1.32"))
    world.settle()
    assert world.store.triggers.find() == ()
    slot = device.slots["m"]
    new = device.seen.stack.hash
    device.slots["m"] = replace(slot, golden_ok=False, integer_coverage=0.0, checked_stack=new)
    world.turn()
    world.turn()
    (trigger,) = world.store.triggers.find()
    assert "golden answers wrong, integer coverage 0.00" in trigger.reason


def test_a_running_variant_that_is_still_right_stays(world: Any) -> None:
    world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    world.devices["a"].change(fingerprint(runtime="1.32"))
    world.settle(60)
    (trigger,) = world.store.triggers.find()
    assert trigger.result.startswith("the same variant is still right")
    assert len(world.store.releases.find()) == 1


def test_a_change_during_the_pause_is_not_lost(world: Any) -> None:
    world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    world.devices["a"].change(fingerprint(runtime="1.32"))
    world.until(lambda: any(t.closed_at for t in world.store.triggers.find()))
    world.devices["a"].change(fingerprint(runtime="1.33"))
    world.turn()
    assert len(world.store.triggers.find()) == 1
    world.clock.advance(60.0)
    world.turn()
    assert len(world.store.triggers.find()) == 2


def test_without_a_word_from_the_operator_a_trigger_only_proposes(world: Any) -> None:
    world.settings = ReconcileSettings(auto_approve=False)
    world.start()
    world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    world.devices["a"].times_ms = {"fp32": 1.0, "int8": 4.0}
    world.devices["a"].change(fingerprint(runtime="1.32"))
    world.settle(60)
    (trigger,) = world.store.triggers.find()
    assert (bool(trigger.release), trigger.rollout, trigger.closed_at) == (True, "", 0.0)
    world.controller.approve_release(trigger.release)
    world.settle()
    assert world.runs("a") == "fp32"


def test_a_device_that_changes_back_takes_its_trigger_along(world: Any) -> None:
    world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    world.devices["a"].change(fingerprint(runtime="1.32"))
    world.controller.tick()
    world.devices["a"].change(fingerprint())
    world.controller.tick()
    (trigger,) = world.store.triggers.find()
    assert trigger.result == "the device changed again before anything was released"


def test_a_missed_budget_is_answered_with_what_was_measured(world: Any) -> None:
    world.variants = (variant("fp32", 1.0), variant("fast", 0.2), variant("other", 0.4))
    world.start()
    twin = world.join("a", times_ms={"fp32": 1.0, "fast": 0.2, "other": 0.5})
    world.model = replace(world.model, budget=fleet.Budget(latency_p95_max_ms=0.6))
    release = world.released()
    twin.times_ms = {"fp32": 1.0, "fast": 5.0, "other": 0.5}  # in the field it is slow
    twin.behave = lambda order: (
        Outcome.ROLLED_BACK if order.bundle.name == "fast" else Outcome.COMMITTED
    )
    world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    (trigger,) = world.store.triggers.find()
    assert trigger.kind is fleet.TriggerKind.BUDGET_MISSED
    assert "p95 latency 5 ms is above 0.6 ms" in trigger.reason
    assert world.runs("a") == "other"
    world.settle(60)
    assert len(world.store.triggers.find()) == 1


def test_a_tick_in_peace_changes_and_publishes_nothing(world: Any) -> None:
    for name in "ab":
        world.join(name)
    world.controller.create_rollout(world.released().id, RolloutPlan())
    world.settle()
    world.controller.tick()
    before = everything(world.store)
    world.published.clear()
    for _ in range(5):
        world.controller.tick()
    assert everything(world.store) == before
    assert world.published == []


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_controller_that_is_restarted_all_the_time_comes_to_the_same(
    world: Any, every: int
) -> None:
    for name in "ab":
        world.join(name)
    world.controller.register_model(world.model)
    jobs = world.controller.start_fits("model-1")
    looks = 0
    while any(world.job(j.id).status is not JobStatus.DONE for j in jobs):
        looks += 1
        assert looks < 60
        world.turn()
        if looks % every == 0:
            restart(world)
    release = world.controller.create_release("model-1")
    rollout = world.controller.create_rollout(release.id, RolloutPlan(waves=(0.5, 1.0)))
    while world.rollout(rollout.id).state is not RolloutState.COMPLETED:
        looks += 1
        assert looks < 120
        world.turn()
        if looks % every == 0:
            restart(world)
    assert (world.runs("a"), world.runs("b")) == ("int8", "int8")
    assert len(world.store.deployments.find(rollout=rollout.id)) == 2
    assert len(world.store.studies.find(kind=StudyKind.BENCHMARK)) == 2
    assert len(world.store.studies.find(kind=StudyKind.PROBE)) == 1
    assert all(d.outcome is Outcome.COMMITTED for d in world.store.deployments.find())


def restart(world: Any) -> None:
    """What was under way on the fit side is forgotten, as a killed controller's is."""
    fits = world.fits
    world.start()
    # A worker that goes on at its last rung is quicker than one that begins.
    world.fits = ScriptedFits(world.folder / "fits", world.variants, polls=0)
    assert fits is not world.fits
    object.__setattr__(world.controller.context, "fits", world.fits)
