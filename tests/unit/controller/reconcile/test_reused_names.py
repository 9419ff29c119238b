"""A device that took the name of a decommissioned one inherits nothing of what that one ran."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import eligible, fleet, observing
from controller.domain.fleet import Gate, RolloutState
from controller.errors import Conflict, UserError
from controller.reconcile import optimising, releasing, rolling, standing
from controller.reconcile.rolling import RolloutPlan
from tests.unit.controller.reconcile.test_rolling import joined, second_release


def taken_over(world: Any) -> tuple[fleet.Rollout, fleet.Device]:
    """A rollout to ``a``, whose name another device has had since, which reports nothing of it."""
    release = joined(world, "a")
    made = world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    world.clock.advance(60.0)
    known = world.store.devices.get("a")
    assert known.reported is not None
    its = replace(known, renamed_at=world.clock(), last_seen=world.clock())
    world.store.devices.put(its)
    return made, its


def test_no_rollout_has_begun_with_it(world: Any) -> None:
    made, device = taken_over(world)
    newest = {d.device: d for d in world.store.deployments.find(rollout=made.id)}
    assert newest
    assert not eligible.has_begun(device, newest)
    assert eligible.has_begun(replace(device, renamed_at=0.0), newest)
    release = world.store.releases.get(made.release)
    named = replace(made, devices=("a",))
    assert rolling.targets(world.controller.context, named, release, newest) == ()


def test_nothing_of_it_is_reverted_or_tried_again(world: Any) -> None:
    made, device = taken_over(world)
    with pytest.raises(Conflict, match="no device of this rollout was updated"):
        world.controller.revert(made.id)
    later = second_release(world, "fp32")
    with pytest.raises(UserError, match="nothing to go back to"):
        releasing.revert_of(world.controller.context, replace(made, release=later.id), [device])


def test_what_the_old_one_took_is_no_baseline(world: Any) -> None:
    made, device = taken_over(world)
    (its,) = world.store.deployments.find(rollout=made.id)
    gate, context = Gate(energy_ratio_max=1.1), world.controller.context
    assert standing.before(context, gate, device, its.slot) == {}
    assert standing.before(context, gate, replace(device, renamed_at=0.0), its.slot)


def test_the_new_one_contradicts_nobody(world: Any) -> None:
    made, device = taken_over(world)
    (its,) = world.store.deployments.find(rollout=made.id)
    (slot,) = device.reported.slots
    other = replace(
        device, reported=replace(device.reported, slots=(replace(slot, variant="sha256:0"),))
    )
    now = world.clock() + 60.0
    assert observing.contradiction(its, replace(other, renamed_at=0.0), now=now)
    assert observing.contradiction(its, other, now=now) == ""


def test_a_rollout_over_a_selection_reaches_the_new_one_too(world: Any) -> None:
    release = joined(world, "ab")
    plan = RolloutPlan(waves=(0.5, 1.0), soak_s=600.0)
    made = world.controller.create_rollout(release.id, plan)
    world.until(lambda: world.runs("a") == "int8")
    world.clock.advance(60.0)
    known = world.store.devices.get("a")
    world.store.devices.put(replace(known, renamed_at=world.clock()))
    world.devices["a"].slots.clear()
    world.devices["a"].report()
    world.settle()
    world.clock.advance(600.0)
    world.settle()
    world.clock.advance(600.0)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    its = [d for d in world.store.deployments.find(device="a") if d.created_at >= known.renamed_at]
    assert len(its) == 2, "one of each device that had the name"
    assert [d.attempt for d in its] == [1, 1]


def test_windows_of_the_old_one_bind_the_new_one_to_nothing(world: Any) -> None:
    release = joined(world, "a")
    plan = RolloutPlan(waves=(1.0,), windows=("Mon-Sun 00:00 +24h UTC",))
    made = world.controller.create_rollout(release.id, plan)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    context = world.controller.context
    assert optimising.windows_of(context, "a", release.slot)["windows"]
    known = world.store.devices.get("a")
    world.store.devices.put(replace(known, renamed_at=world.clock() + 1.0))
    assert optimising.windows_of(context, "a", release.slot) == {}
