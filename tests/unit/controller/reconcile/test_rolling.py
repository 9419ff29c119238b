"""What operators do with rollouts, and what devices do to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.domain.judgement import GateVerdict, TooFew
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import desired
from controller.reconcile.context import ReconcileSettings
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import Assignment, CalibrationMode, Outcome
from fitment.core.measurement import Energy, ReadingStatus

AT_ONCE = RolloutPlan(waves=(1.0,))


def fail(_order: Assignment) -> Outcome | None:
    return Outcome.ROLLED_BACK


def hang(_order: Assignment) -> Outcome | None:
    return None


def joined(world: Any, names: str) -> fleet.Release:
    for name in names:
        world.join(name)
    release: fleet.Release = world.released()
    return release


def second_release(world: Any, variant: str) -> fleet.Release:
    """A later release of another variant, put together by hand."""
    world.clock.advance(10.0)
    first = world.store.releases.find()[-1]
    digest = next(v.bundle.variant for v in world.variants if v.name == variant)
    later = replace(
        first, id=f"later-{variant}-{world.clock.now:.0f}", counter=first.counter + 1,
        variants=dict.fromkeys(first.variants, digest), approved_at=0.0,
    )  # fmt: skip
    world.store.releases.add(later)
    approved: fleet.Release = world.controller.approve_release(later.id)
    return approved


def test_a_bad_canary_halts_and_nobody_else_is_touched(world: Any) -> None:
    release = joined(world, "abcd")
    world.devices["a"].behave = fail
    rollout = world.controller.create_rollout(release.id, RolloutPlan())
    world.settle()
    halted = world.rollout(rollout.id)
    assert halted.state is RolloutState.HALTED
    assert "a rolled_back: it was rolled_back" in halted.reasons[-1]
    assert [world.runs(n) for n in "abcd"] == [""] * 4


def test_a_halt_that_an_operator_accepts_goes_on_and_still_has_a_gate(world: Any) -> None:
    release = joined(world, "abcd")
    world.devices["a"].behave = fail
    rollout = world.controller.create_rollout(release.id, RolloutPlan(waves=(0.25, 0.5, 1.0)))
    world.settle()
    world.devices["c"].behave = fail
    world.controller.resume(rollout.id)
    world.settle()
    assert world.runs("b") == "int8"
    assert world.rollout(rollout.id).state is RolloutState.HALTED
    world.controller.resume(rollout.id)
    world.settle()
    assert world.rollout(rollout.id).state is RolloutState.COMPLETED


def test_pause_admits_nobody_and_resume_goes_on(world: Any) -> None:
    release = joined(world, "ab")
    rollout = world.controller.create_rollout(release.id, RolloutPlan(waves=(0.5, 1.0)))
    world.controller.pause(rollout.id)
    world.settle()
    assert world.store.deployments.find() == ()
    world.controller.resume(rollout.id)
    world.settle()
    assert world.rollout(rollout.id).state is RolloutState.COMPLETED


def test_cancel_takes_back_what_is_under_way(world: Any) -> None:
    release = joined(world, "a")
    world.devices["a"].behave = hang
    rollout = world.controller.create_rollout(release.id, AT_ONCE)
    world.turn()
    world.turn()
    assert len(world.devices["a"].desired.assignments) == 1
    world.controller.cancel(rollout.id)
    world.turn()
    assert world.devices["a"].desired.assignments == ()
    (deployment,) = world.store.deployments.find()
    assert deployment.outcome is Outcome.CANCELLED
    with pytest.raises(Conflict, match="the rollout is cancelled"):
        world.controller.resume(rollout.id)


def test_revert_brings_back_what_each_device_ran_before(world: Any) -> None:
    release = joined(world, "abc")
    world.controller.create_rollout(release.id, AT_ONCE)
    world.settle()
    later = second_release(world, "fp32")
    gate = fleet.Gate(latency_ratio_max=None)
    rollout = world.controller.create_rollout(later.id, replace(AT_ONCE, gate=gate))
    world.settle()
    assert [world.runs(n) for n in "abc"] == ["fp32"] * 3
    world.devices["c"].disconnect()
    world.controller.revert(rollout.id)
    world.settle()
    reverted = world.rollout(rollout.id)
    assert reverted.state is RolloutState.REVERTED
    assert reverted.reasons[-1] == "2 went back; offline: c"
    assert [world.runs(n) for n in "abc"] == ["int8", "int8", "fp32"]
    world.devices["c"].connect()
    world.settle()
    assert world.runs("c") == "int8", "who was away goes back when it is there"
    counters = [r.counter for r in world.store.releases.find()]
    assert counters == sorted(set(counters))


def test_what_has_a_later_release_is_not_taken_back(world: Any) -> None:
    first = world.controller.create_rollout(joined(world, "ab").id, AT_ONCE)
    world.settle()
    gate = fleet.Gate(latency_ratio_max=None)
    later = second_release(world, "fp32")
    world.controller.create_rollout(later.id, replace(AT_ONCE, gate=gate))
    world.settle()
    known = len(world.store.releases.find())
    with pytest.raises(Conflict, match="runs a later release"):
        world.controller.revert(first.id)
    assert len(world.store.releases.find()) == known
    assert world.rollout(first.id).state is RolloutState.COMPLETED
    assert [world.runs(n) for n in "ab"] == ["fp32"] * 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"soak_s": -5.0}, "the pause after a wave"), ({"deadline_s": 0.0}, "deadline cannot be 0"),
     ({"deadline_s": float("inf")}, "deadline cannot be inf")],
)  # fmt: skip
def test_times_that_never_pass_are_refused(world: Any, wrong: Any, words: str) -> None:
    release = joined(world, "a")
    with pytest.raises(UserError, match=words):
        world.controller.create_rollout(release.id, replace(AT_ONCE, **wrong))


def test_a_device_named_twice_is_one(world: Any) -> None:
    asked = replace(AT_ONCE, devices=("a", "a"))
    made = world.controller.create_rollout(joined(world, "ab").id, asked)
    assert world.rollout(made.id).devices == ("a",)


def test_a_first_release_has_nothing_to_go_back_to(world: Any) -> None:
    rollout = world.controller.create_rollout(joined(world, "a").id, AT_ONCE)
    world.settle()
    with pytest.raises(UserError, match="nothing to go back to"):
        world.controller.revert(rollout.id)
    assert world.rollout(rollout.id).state is RolloutState.COMPLETED


def test_a_silent_device_times_out_and_its_late_word_still_counts(world: Any) -> None:
    release = joined(world, "a")
    twin = world.devices["a"]
    twin.behave = hang
    rollout = world.controller.create_rollout(release.id, replace(AT_ONCE, deadline_s=30.0))
    world.turn()
    twin.disconnect()
    world.settle(40)
    (deployment,) = world.store.deployments.find()
    assert deployment.outcome is Outcome.TIMED_OUT
    assert world.rollout(rollout.id).state is RolloutState.HALTED
    twin.behave = lambda _order: Outcome.COMMITTED
    twin.online = True  # it had gone on alone, and now says what came of it
    twin.step()
    (deployment,) = world.store.deployments.find()
    assert deployment.outcome is Outcome.COMMITTED


def test_who_is_away_is_named_and_comes_in_later(world: Any) -> None:
    release = joined(world, "abc")
    world.devices["b"].disconnect()
    rollout = world.controller.create_rollout(release.id, RolloutPlan(waves=(0.5, 1.0)))
    world.settle()
    done = world.rollout(rollout.id)
    assert done.state is RolloutState.COMPLETED
    assert done.reasons[-1].endswith("never reached: b")
    assert done.pending == ("b",)
    world.devices["b"].connect()
    world.settle()
    assert world.runs("b") == "int8"


def test_an_older_rollout_leaves_a_device_alone_that_is_ahead(world: Any) -> None:
    release = joined(world, "ab")
    world.devices["b"].disconnect()
    world.controller.create_rollout(release.id, AT_ONCE)
    world.settle()
    later = second_release(world, "fp32")
    world.devices["b"].online = True  # it got the later one by another way
    world.devices["b"].slots["m"] = replace(
        world.devices["a"].slots["m"], counter=later.counter, release=later.id
    )
    world.devices["b"].connect()
    world.settle()
    assert world.store.deployments.find(device="b") == ()


def test_a_newer_rollout_takes_the_place_of_what_is_under_way(world: Any) -> None:
    release = joined(world, "a")
    world.devices["a"].behave = hang
    world.controller.create_rollout(release.id, AT_ONCE)
    world.turn()
    later = second_release(world, "fp32")
    world.devices["a"].behave = lambda _order: Outcome.COMMITTED
    world.controller.create_rollout(later.id, AT_ONCE)
    world.controller.tick()
    world.settle()
    first, second = world.store.deployments.find()
    assert first.outcome is Outcome.SUPERSEDED
    assert second.outcome is Outcome.COMMITTED


def test_a_device_that_lost_its_model_gets_it_again_once(world: Any) -> None:
    world.controller.create_rollout(joined(world, "a").id, AT_ONCE)
    world.settle()
    for _ in range(3):
        world.devices["a"].lose_slots()
        world.settle(40)
    tries = world.store.deployments.find()
    assert len(tries) == 2, "a device that leaves again has its reasons"
    assert "the device runs nothing" in tries[1].reasons[0] or tries[1].outcome is not None
    assert world.actions().count("drift_reopened") == 1


def test_a_rollout_waits_for_its_release_to_be_approved(world: Any) -> None:
    world.settings = ReconcileSettings(auto_approve=False)
    world.start()
    world.join("a")
    world.controller.register_model(world.model)
    (job,) = world.controller.start_fits(world.model.id)
    world.until(lambda: world.job(job.id).choice is not None)
    release = world.controller.create_release(world.model.id)
    rollout = world.controller.create_rollout(release.id, AT_ONCE)
    world.settle()
    assert world.rollout(rollout.id).state is RolloutState.AWAITING_APPROVAL
    world.controller.approve_release(release.id)
    world.settle()
    assert world.runs("a") == "int8"
    listed = world.trust.repository.read("timestamp.json")
    assert listed is not None


def test_requests_that_make_no_sense_say_why(world: Any) -> None:
    release = joined(world, "a")
    create = world.controller.create_rollout
    with pytest.raises(UserError, match="rise to 1"):
        create(release.id, RolloutPlan(waves=(0.5, 0.2)))
    with pytest.raises(NotFound, match="no release 'x'"):
        create("x", AT_ONCE)
    with pytest.raises(NotFound, match="no device is named 'ghost'"):
        create(release.id, RolloutPlan(devices=("ghost",)))
    with pytest.raises(UserError, match="no device of the selection"):
        create(release.id, RolloutPlan(selector={"site": "nowhere"}))
    with pytest.raises(NotFound, match="no rollout 'x'"):
        world.controller.pause("x")


def test_gates_and_calibration_of_a_release(world: Any) -> None:
    world.variants = tuple(replace(v, calibratable=True) for v in world.variants)
    world.model = replace(
        world.model, calibrate_profiles=("generic-x86_64",),
        budget=fleet.Budget(accuracy_drop_max=0.01, latency_p95_max_ms=5.0),
    )  # fmt: skip
    world.start()
    release = joined(world, "a")
    assert set(release.variants) == {release_key(world), "generic-x86_64"}
    gates = release.gates["generic-x86_64"]
    assert (gates.latency_p95_max_ms, gates.agreement_min) == (5.0, pytest.approx(0.94))
    plan = release.calibration["generic-x86_64"]
    assert plan.mode is CalibrationMode.INPUT
    device = world.store.devices.get("a")
    assert desired._understood(device, plan) == plan
    older = replace(device, reported=replace(device.reported, understands=("windows",)))
    assert desired._understood(older, plan) == replace(plan, mode=CalibrationMode.MOMENTS)


def release_key(world: Any) -> str:
    cohort = world.store.devices.get("a").cohort
    return str(cohort.key)


def test_where_statistics_say_nothing_an_operator_is_asked(world: Any) -> None:
    release = joined(world, "abc")
    gate = fleet.Gate(too_few=TooFew.ASK)
    made = world.controller.create_rollout(release.id, RolloutPlan(gate=gate))
    world.until(lambda: world.rollout(made.id).state is RolloutState.PAUSED)
    assert "not statistical" in world.rollout(made.id).asks
    assert "rollout_paused" in world.actions()
    world.settle(5)
    assert [world.runs(n) for n in "abc"] == ["int8", "", ""]
    world.controller.resume(made.id)
    world.until(lambda: world.runs("b") == "int8")
    found, exposure = world.controller.judged(made.id)
    assert {r.gate: r.verdict for r in found} == {
        "failures": GateVerdict.EACH, "latency": GateVerdict.MISSING,
    }  # fmt: skip
    assert exposure.admitted <= exposure.bound == 2


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (fleet.Gate(max_failure_share=1.5), "the share that may fail cannot be 1.5"),
        (fleet.Gate(false_halt_rate=0.0), "the false-halt rate cannot be 0"),
        (fleet.Gate(open_most=0), "under way at once cannot be 0"),
    ],
)
def test_a_gate_that_nothing_could_pass_or_fail(world: Any, gate: fleet.Gate, said: str) -> None:
    release = joined(world, "a")
    with pytest.raises(UserError, match=said):
        world.controller.create_rollout(release.id, RolloutPlan(gate=gate))


def test_energy_is_asked_beside_what_the_running_release_took(world: Any) -> None:
    release = joined(world, "a")
    world.controller.create_rollout(release.id, AT_ONCE)
    world.settle(5)
    (first,) = world.store.deployments.find(device="a")
    taken = replace(first.measurement, energy=Energy(status=ReadingStatus.MEASURED, value_mj=2.0))
    world.store.deployments.put(replace(first, measurement=taken))
    later = second_release(world, "fp32")
    asked = RolloutPlan(waves=(1.0,), gate=fleet.Gate(energy_ratio_max=1.2, latency_ratio_max=None))
    made = world.controller.create_rollout(later.id, asked)
    world.turn()
    (second,) = world.store.deployments.find(rollout=made.id)
    assert second.energy_before_mj == 2.0
