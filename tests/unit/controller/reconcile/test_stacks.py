"""Announced stacks, from the announcement to a fleet that has it: real store, real trust, twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.stacks import DeviceStanding, StackAnnouncement, StackState, Standing
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile.announcing import Announced
from controller.reconcile.rolling import RolloutPlan
from controller.testing import TwinDevice, fingerprint, variant
from fitment.core.deployment import Outcome

PROFILE = "generic-x86_64"
NEXT = fingerprint(runtime="1.40")
NEXT_TIMES = {"fp32": 0.9, "int8": 4.0, "tiny": 0.2}
"""On the next stack the integer kernels are gone: what is right today is wrong there."""


def running(world: Any, *names: str) -> fleet.Release:
    for name in names:
        world.join(name)
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: all(world.runs(name) == "int8" for name in names))
    world.settle(3)
    return release


def lab(world: Any, name: str = "lab", **more: object) -> TwinDevice:
    made: TwinDevice = world.join(name, seen=NEXT, times_ms=NEXT_TIMES, **more)
    made.report()
    return made


def announce(world: Any, **more: object) -> StackAnnouncement:
    asked = {"device": "lab"} | more
    return world.controller.announce_stack(Announced(name="os-8", **asked))


def stack(world: Any) -> StackAnnouncement:
    return world.controller.stack("os-8")


def reach(world: Any, state: StackState, *, turns: int = 120) -> StackAnnouncement:
    world.until(lambda: stack(world).state is state, turns=turns)
    return stack(world)


def standings(world: Any) -> dict[str, DeviceStanding]:
    return {s.device: s for s in world.controller.stack_standings("os-8")}


def triggers(world: Any) -> list[fleet.Trigger]:
    return list(world.store.triggers.find())


@pytest.fixture
def prepared(world: Any) -> Any:
    running(world, "a", "b", "c")
    lab(world)
    announce(world)
    reach(world, StackState.PREPARED)
    return world


def test_a_stack_is_fitted_tried_out_and_shipped_before_it_comes(prepared: Any) -> None:
    world, now = prepared, stack(prepared)
    (part,) = now.parts.values()
    assert part.name == "fp32", "what the lab device measured decides"
    assert "lab took fp32 (0.900 ms p50" in part.tested
    for name in "abc":
        device = world.devices[name]
        assert world.runs(name) == "int8", "today's variant is unchanged"
        assert [(r.name, r.ready, r.stacks) for r in device.slots["m"].ladder] == [
            ("fp32", True, (NEXT.stack.hash,))
        ]
    assert {s.standing for s in standings(world).values()} == {Standing.READY}
    assert world.runs("lab") == "fp32"
    assert [a for a in world.actions() if a.startswith("stack_")] == [
        "stack_announced", "stack_fitting", "stack_testing", "stack_qualified",
        "stack_rolling_out", "stack_prepared",
    ]  # fmt: skip
    told = world.store.audit.find(action="stack_qualified")[0].details
    assert "0.900 ms p50" in told["reason"]
    assert (told["not_ready"], told["ready"]) == ("3", "0")


def test_devices_on_which_it_comes_serve_at_once_and_nothing_is_asked(prepared: Any) -> None:
    world = prepared
    before = len(world.store.deployments.find())
    for name in "abc":
        world.devices[name].change(NEXT)
        world.settle(2)
    done = reach(world, StackState.ARRIVED)
    assert done.result == "all 3 devices have it"
    world.settle(30)
    assert triggers(world) == [], "no trigger for a stack that was qualified"
    assert len(world.store.deployments.find()) == before, "nothing is deployed, nothing reopened"
    assert all(world.devices[n].slots["m"].rung == 1 for n in "abc")
    (first, *rest) = world.store.audit.find(action="stack_came")
    assert len(rest) == 2, "once a device"
    assert first.details["change"] == "stack changed: runtime.onnx '1.31' → '1.40'"
    assert first.details["serves"] == "rung 1 (fp32) serves"
    assert "no trigger" in first.details["instead"]


def test_one_that_goes_back_is_left_alone_too(prepared: Any) -> None:
    world = prepared
    for seen in (NEXT, fingerprint(), NEXT, fingerprint()):
        world.devices["a"].change(seen)
        world.settle(6)
    assert triggers(world) == []
    assert world.devices["a"].slots["m"].rung == 0
    assert standings(world)["a"].standing is Standing.READY


def test_a_stack_that_nobody_announced_opens_a_trigger_as_ever(prepared: Any) -> None:
    world = prepared
    world.devices["a"].change(fingerprint(runtime="1.50"))
    world.until(lambda: bool(triggers(world)))


def test_what_fails_where_it_was_to_serve_opens_a_trigger_that_says_so(prepared: Any) -> None:
    world = prepared
    world.devices["b"].wrong = ("fp32",)
    world.devices["b"].change(NEXT)
    world.until(lambda: bool(triggers(world)))
    (trigger,) = triggers(world)
    assert "what was prepared for 'os-8' does not hold: rung 1 (fp32)" in trigger.reason
    assert trigger.device == "b"


def test_no_variant_keeps_the_budget_there(world: Any) -> None:
    world.model = replace(
        world.model, budget=replace(world.model.budget, latency_p95_max_ms=2.0)
    )  # fmt: skip
    world.variants = (variant("int8", 0.4), variant("other", 0.5))
    world.start()
    running(world, "a", "b")
    world.join("lab", seen=NEXT, times_ms={"int8": 9.0, "other": 8.0}).report()
    announce(world)
    done = reach(world, StackState.REFUSED)
    assert "2" in done.result
    assert "8" in done.result, done.result
    assert world.devices["a"].slots["m"].ladder == ()
    assert standings(world)["a"].standing is Standing.NOT_READY
    (told,) = world.store.audit.find(action="stack_refused")
    assert told.details["reason"] == done.result
    world.settle(20)
    assert stack(world).state is StackState.REFUSED


def test_a_trial_that_fails_refuses_it_with_what_the_device_said(world: Any) -> None:
    running(world, "a")
    lab(world, behave=lambda _: Outcome.ROLLED_BACK)
    announce(world)
    done = reach(world, StackState.REFUSED)
    assert "lab did not take fp32 (rolled_back) (0.900 ms p50" in done.result
    assert "it was rolled_back" in done.result


def test_it_waits_for_a_device_that_matches_the_description(world: Any) -> None:
    """The canary of an operator who upgrades one device of the fleet."""
    running(world, "a", "b", "c")
    announce(world, device="", profile=PROFILE, runtimes=("onnxruntime=1.40.2",))
    world.settle(20)
    waiting = stack(world)
    assert (waiting.state, waiting.facts) == (StackState.ANNOUNCED, {"runtime.onnx": "1.40"})
    assert waiting.waits == f"a device of {PROFILE} with runtime.onnx 1.40 has to report the stack"
    world.devices["b"].times_ms = NEXT_TIMES
    world.devices["b"].change(NEXT)
    done = reach(world, StackState.PREPARED, turns=200)
    assert done.device == "b"
    assert world.runs("b") == "fp32"
    assert len(triggers(world)) <= 1, "the canary's own trigger is the trial"
    assert {n: s.standing for n, s in standings(world).items()} == {
        "a": Standing.READY, "c": Standing.READY
    }  # fmt: skip


def test_a_stack_that_never_comes_waits_and_can_be_taken_back(world: Any) -> None:
    running(world, "a")
    announce(world, device="", profile=PROFILE, runtimes=("onnxruntime=9.9",))
    world.settle(60)
    assert stack(world).state is StackState.ANNOUNCED
    assert world.store.jobs.find(model=world.model.id)[1:] == ()
    world.controller.withdraw_stack("os-8", "the vendor dropped it")
    assert stack(world).state is StackState.WITHDRAWN


def test_withdrawn_during_its_fit(world: Any) -> None:
    running(world, "a")
    lab(world)
    announce(world)
    reach(world, StackState.FITTING)
    world.controller.withdraw_stack("os-8", "not this one")
    world.settle(40)
    done = stack(world)
    assert (done.state, done.result) == (StackState.WITHDRAWN, "not this one")
    assert world.devices["a"].slots["m"].ladder == ()
    assert world.runs("lab") == ""
    with pytest.raises(Conflict, match="has ended as withdrawn"):
        world.controller.withdraw_stack("os-8", "again")
    world.devices["a"].change(NEXT)
    world.until(lambda: bool(triggers(world)))


def test_withdrawn_during_its_rollout_ends_that(world: Any) -> None:
    running(world, "a", "b")
    lab(world)
    world.devices["a"].behave = lambda _: None
    announce(world)
    now = reach(world, StackState.ROLLING_OUT)
    world.controller.withdraw_stack("os-8", "not this one")
    assert world.rollout(now.parts["m"].rollout).state is fleet.RolloutState.CANCELLED


@pytest.mark.parametrize("gone", ["revoked", "changed"])
def test_the_lab_device_goes_away_and_another_stands_in(world: Any, gone: str) -> None:
    running(world, "a")
    lab(world)
    world.devices["lab"].gives_up = ("fp32", "int8", "tiny")
    announce(world)
    reach(world, StackState.FITTING)
    if gone == "revoked":
        world.controller.revoke("lab")
    else:
        world.devices["lab"].change(fingerprint(runtime="1.45"))
    waiting = reach(world, StackState.ANNOUNCED)
    assert "has to report the stack" in waiting.waits or not waiting.waits
    world.settle(10)
    assert stack(world).state is StackState.ANNOUNCED
    lab(world, "spare")
    done = reach(world, StackState.PREPARED, turns=200)
    assert done.device == "spare"
    assert world.runs("spare") == "fp32"


def test_who_cannot_hold_both_is_shown_with_the_reason(world: Any) -> None:
    running(world, "full", "old", "away", "fine")
    world.devices["full"].no_room = "staging: no room to unpack: make room on this disk"
    world.devices["old"].understands = ("windows",)
    for name in ("full", "old"):
        world.devices[name].report()
    world.devices["away"].disconnect()
    other = world.join("other", seen=replace(fingerprint(), hardware=replace(
        fingerprint().hardware, hash="sha256:else")))  # fmt: skip
    other.report()
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(devices=("other",), waves=(1.0,)))
    world.until(lambda: world.runs("other") != "")
    lab(world)
    announce(world)
    world.until(lambda: stack(world).waits == "m: 1 devices fetch what they will need", turns=120)
    world.clock.advance(600.0)
    reach(world, StackState.PREPARED)
    world.settle(40)
    assert stack(world).state is StackState.PREPARED, "it does not go round in circles"
    found = standings(world)
    assert found["fine"].standing is Standing.READY
    assert "does not hold both: staging: no room to unpack" in found["full"].reason
    assert "agent is too old" in found["old"].reason
    assert "to come online" in found["away"].reason
    assert "its hardware is not lab's" in found["other"].reason
    assert world.devices["old"].slots["m"].ladder == ()
    assert len(stack(world).parts["m"].releases) == 1
    world.devices["away"].connect()
    world.until(lambda: standings(world)["away"].standing is Standing.READY)


def test_a_device_that_comes_later_is_prepared_too(prepared: Any) -> None:
    world = prepared
    world.join("late")
    release = world.store.releases.find(model=world.model.id)[0]
    again = world.controller.create_release(world.model.id)
    world.controller.approve_release(again.id)
    world.controller.create_rollout(again.id, RolloutPlan(devices=("late",), waves=(1.0,)))
    world.until(lambda: world.runs("late") == "int8")
    assert [r.name for r in world.devices["late"].slots["m"].ladder] == ["fp32"], (
        "a release that is made meanwhile carries it by itself"
    )
    assert release.ladders == {}
    world.settle(20)
    assert stack(world).state is StackState.PREPARED


def test_a_newer_model_version_is_fitted_for_it_again(prepared: Any) -> None:
    world = prepared
    newer = replace(world.model, id="model-2", version="2", digest="sha256:n")
    world.model = newer
    world.fits.variants = world.variants
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(
        devices=("a", "b", "c"), waves=(1.0,)))  # fmt: skip
    world.until(lambda: world.devices["a"].slots["m"].release == release.id)
    world.settle(60)
    done = reach(world, StackState.PREPARED, turns=200)
    assert done.parts["m"].model == "model-2"
    assert {s.standing for s in standings(world).values()} == {Standing.READY}


def test_where_the_same_variant_is_right_nothing_is_sent(world: Any) -> None:
    running(world, "a", "b")
    world.join("lab", seen=NEXT).report()
    announce(world)
    done = reach(world, StackState.PREPARED)
    assert done.parts["m"].releases == ()
    assert standings(world)["a"].standing is Standing.READY
    world.devices["a"].change(NEXT)
    world.settle(10)
    assert triggers(world) == []
    (told,) = world.store.audit.find(action="stack_came")
    assert told.details["serves"] == "what it ran is right on both"


def test_under_the_policy_of_asking_an_operator_says_yes_to_each_step(world: Any) -> None:
    running(world, "a", "b")
    lab(world)
    world.controller.set_policy("m", "propose")
    announce(world)
    for state in (StackState.TESTING, StackState.QUALIFIED):
        now = reach(world, state)
        world.until(lambda: "an operator approves it" in stack(world).waits)
        world.settle(5)
        now = stack(world)
        assert now.state is state
        part = now.parts["m"]
        world.controller.approve_release(part.release or part.test_release)
    reach(world, StackState.PREPARED)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (Announced(name=" ", device="lab"), UserError, "name the stack"),
        (Announced(name="x"), UserError, "say how to know it"),
        (Announced(name="x", device="none"), NotFound, "fitment device list"),
        (Announced(name="x", runtimes=("onnxruntime=1.4",)), UserError, "name the profile"),
        (Announced(name="x", profile="no", runtimes=("onnx=1.4",)), NotFound, "no profile 'no'"),
        (Announced(name="x", device="lab", profile="jetson-orin-nano"), UserError, "of profile"),
        (Announced(name="x", device="a"), UserError, "has the stack that all devices"),
        (Announced(name="x", device="lab", runtimes=("onnx",)), UserError, "NAME=VERSION"),
        (Announced(name="x", device="lab", runtimes=("onnx=1.50",)), UserError, "does not have"),
        (Announced(name="os-8", device="lab"), Conflict, "announced already"),
    ],
)
def test_what_makes_no_sense_is_refused(
    world: Any, asked: Announced, error: type[Exception], words: str
) -> None:
    world.join("a")
    world.join("b")
    twin = lab(world)
    if asked.device == "a":
        twin.change(fingerprint())
    else:
        announce(world)
    with pytest.raises(error, match=words):
        world.controller.announce_stack(asked)
