"""The mix of predictions, with a rollout's release and without it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.domain import mix
from controller.domain.fleet import RolloutState
from controller.reconcile import mixing
from controller.reconcile.rolling import RolloutPlan
from fitment.core.telemetry import Column, TelemetryBatch
from tests.unit.controller.reconcile.test_rolling import joined, second_release


def told(world: Any, device: str, number: int, zero: float) -> None:
    """A sample of which share of its answers is class 0; the others are class 1."""
    columns = {mix.column("m", "0"): zero, mix.column("m", "1"): 1 - zero}
    batch = TelemetryBatch(
        outbox="o", sequence=number, first_available=1, boot_id="b", monotonic_ns=(number,),
        wall_unix_ns=(int(world.clock() * 1e9),),
        columns={name: Column(values=(value,)) for name, value in columns.items()},
    )  # fmt: skip
    world.store.telemetry.ingest(device, batch)
    world.store.telemetry.roll_up("", 100)


def test_a_mix_that_moves_on_new_devices_only_is_seen(world: Any) -> None:
    first = joined(world, "abcd")
    made = world.controller.create_rollout(first.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    for name in "abcd":
        told(world, name, 1, 0.5)
    world.clock.advance(4000.0)
    later = second_release(world, "fp32")
    plan = RolloutPlan(waves=(1.0,), control_share=0.25, control_s=9e5)
    made = world.controller.create_rollout(later.id, plan)
    world.settle()
    (held,) = world.controller.control_of(made)
    world.clock.advance(4000.0)
    for name in "abcd":
        told(world, name, 2, 0.5 if name == held else 0.9)
    found = {one.group: one for one in mixing.of(world.controller.context, world.rollout(made.id))}
    assert {group: one.devices for group, one in found.items()} == {
        "old": 3, "new": 3, "control": 1
    }  # fmt: skip
    assert found["old"].moved is None
    assert found["new"].moved == pytest.approx(0.4)
    assert found["new"].shares["0"] == pytest.approx(0.9)
    assert found["control"].moved == pytest.approx(0.0)


def test_a_large_fleet_is_drawn_from_and_no_devices_newest_hours_are_left_out(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = joined(world, "abcd")
    for name in "abcd":
        told(world, name, 1, 0.5)
    world.clock.advance(4000.0)
    made = world.controller.create_rollout(first.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    world.clock.advance(4000.0)
    for name in "abcd":
        told(world, name, 2, 0.9)
    world.join("stranger")
    told(world, "stranger", 1, 0.1)
    monkeypatch.setattr(mixing, "ROLLUPS_MOST", 6)
    found = {one.group: one for one in mixing.of(world.controller.context, world.rollout(made.id))}
    assert {group: one.devices for group, one in found.items()} == {"old": 2, "new": 2}
    assert found["new"].moved == pytest.approx(0.4)
