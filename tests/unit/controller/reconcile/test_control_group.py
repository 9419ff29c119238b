"""A rollout that keeps a control group, from its creation to its end."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.domain.staying import WAIT_S
from controller.errors import Conflict, UserError
from controller.reconcile.rolling import RolloutPlan
from tests.unit.controller.reconcile.test_rolling import AT_ONCE, joined, second_release

HELD = RolloutPlan(waves=(0.5, 1.0), control_share=0.25, control_s=60.0)


def updated(world: Any, made: fleet.Rollout) -> set[str]:
    return {d.device for d in world.store.deployments.find(rollout=made.id)}


def test_the_group_stays_behind_and_then_gets_it_too(world: Any) -> None:
    release = joined(world, "abcd")
    made = world.controller.create_rollout(release.id, HELD)
    (held,) = world.controller.control_of(made)
    world.settle()
    running = world.rollout(made.id)
    assert (running.state, running.wave) == (RolloutState.RUNNING, 1)
    assert updated(world, made) == set("abcd") - {held}
    world.start()  # a restart forgets nobody's side
    world.settle()
    assert updated(world, made) == set("abcd") - {held}
    world.clock.advance(60.0)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert updated(world, made) == set("abcd")
    assert "control_ended" in world.actions()
    assert world.controller.control_of(world.rollout(made.id)) == ()


def test_an_operator_may_end_it_before(world: Any) -> None:
    release = joined(world, "abcd")
    made = world.controller.create_rollout(release.id, HELD)
    world.settle()
    world.controller.let_go(made.id)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert updated(world, made) == set("abcd")
    with pytest.raises(Conflict, match="holds no control group"):
        world.controller.let_go(made.id)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (RolloutPlan(control_share=1.0), "below 1"),
        (RolloutPlan(control_share=0.1, control_by="site"), None),
        (RolloutPlan(control_share=0.1, devices=("a",)), "but one device"),
        (RolloutPlan(control_by="site"), "--control"),
    ],
)
def test_what_cannot_be_held_is_refused(world: Any, plan: RolloutPlan, message: str | None) -> None:
    release = joined(world, "ab")
    if message is None:
        assert world.controller.control_of(world.controller.create_rollout(release.id, plan))
        return
    with pytest.raises(UserError, match=message):
        world.controller.create_rollout(release.id, plan)


def test_the_group_gets_it_where_the_others_are_gone(world: Any) -> None:
    release = joined(world, "ab")
    for name in "ab":
        world.devices[name].disconnect()
    world.settle()
    plan = RolloutPlan(waves=(1.0,), control_share=0.5, control_s=60.0)
    made = world.controller.create_rollout(release.id, plan)
    (held,) = world.controller.control_of(made)
    (other,) = set("ab") - {held}
    world.controller.decommission(other)
    world.settle()
    world.devices[held].connect()
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert updated(world, made) == {held}
    assert world.rollout(made.id).control_ended_at


def test_a_group_that_would_miss_the_last_window_is_refused(world: Any) -> None:
    world.clock.advance(1.8e9)
    release = joined(world, "abcd")
    start = dt.datetime.fromtimestamp(world.clock() + 3600.0, dt.UTC)
    dated = (f"{start:%Y-%m-%d %H:%M} +2h UTC",)
    plan = RolloutPlan(
        waves=(1.0,), control_share=0.25, control_s=60.0, windows=dated, deadline_s=90_000.0
    )
    with pytest.raises(UserError, match="hold it for a shorter time"):
        world.controller.create_rollout(release.id, replace(plan, control_s=86_400.0))
    assert world.controller.create_rollout(release.id, plan).windows_end


@pytest.mark.parametrize("greedy", [False, True])
def test_those_who_stay_say_what_the_week_did(world: Any, greedy: bool) -> None:
    """A hot week takes a half more of everything: of a release that takes no more, too."""
    first = joined(world, "abcdefgh")
    for twin in world.devices.values():
        twin.takes_mj = {"int8": 2.0}
    world.controller.create_rollout(first.id, AT_ONCE)
    world.settle()
    later = second_release(world, "fp32")
    for twin in world.devices.values():
        twin.takes_mj = {"int8": 3.0, "fp32": 4.5 if greedy else 3.0}
    gate = fleet.Gate(energy_ratio_max=1.2, latency_ratio_max=None)
    made = world.controller.create_rollout(later.id, replace(HELD, gate=gate))
    held = set(world.controller.control_of(made))
    ends = RolloutState.HALTED if greedy else RolloutState.COMPLETED
    world.settle()
    world.clock.advance(60.0)
    world.until(lambda: world.rollout(made.id).state is ends)
    asked = [world.store.studies.get(key) for key in world.rollout(made.id).control_studies]
    assert {study.device for study in asked} == held
    assert len(asked) == len(held) * (1 if greedy else 2), "once a wave"
    (energy,) = [r for r in world.controller.judged(made.id)[0] if r.gate == "energy"]
    assert "the control group's own: 1.50 in 2" in energy.reason
    assert energy.estimate == pytest.approx(1.5 if greedy else 1.0)


def test_a_wave_waits_for_those_who_stay_and_not_for_ever(world: Any) -> None:
    first = joined(world, "abcd")
    for twin in world.devices.values():
        twin.takes_mj = {"int8": 2.0, "fp32": 2.0}
    world.controller.create_rollout(first.id, AT_ONCE)
    world.settle()
    gate = fleet.Gate(energy_ratio_max=1.2, latency_ratio_max=None)
    plan = replace(HELD, gate=gate)
    made = world.controller.create_rollout(second_release(world, "fp32").id, plan)
    (held,) = world.controller.control_of(made)
    world.devices[held].hears_studies = False
    world.settle()
    assert world.rollout(made.id).wave == 0, "its answer is awaited"
    world.clock.advance(WAIT_S)
    world.until(lambda: world.rollout(made.id).wave == 1)
    given_up = world.store.studies.get(world.rollout(made.id).control_studies[0])
    assert given_up.failed == "no answer in time"
