"""Telemetry on its way through the loop: placed, tagged, rolled up, forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain.telemetry import Bound, Keep, Period, Query, Retention
from controller.reconcile import keeping
from controller.reconcile.context import ReconcileSettings
from controller.reconcile.rolling import RolloutPlan
from fitment.core.link import Uplink
from fitment.core.telemetry import Column, TelemetryBatch

DAY_S = 86400.0


def send(world: Any, sequence: int, wall_s: float, *, rows: int = 1, **tags: str) -> None:
    batch = TelemetryBatch(
        outbox="o", sequence=sequence, first_available=1, boot_id="b",
        monotonic_ns=tuple(number * 10**9 for number in range(rows)),
        wall_unix_ns=tuple(int((wall_s + number) * 1e9) for number in range(rows)),
        columns={"x_ms": Column(values=(1.0,) * rows)}, tags=tags,
    )  # fmt: skip
    assert world.controller.on_uplink("a", Uplink(telemetry=batch))


def rollups(world: Any, period: Period = Period.HOUR) -> Any:
    return world.store.telemetry.rollups(Query(quantity="x_ms", period=period))


def test_rollups_say_which_profile_variant_and_release(world: Any) -> None:
    device = world.join("a")
    release = world.released()
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.runs("a") != "")
    slot = device.slots["m"]
    now = world.clock()
    send(world, 1, now, slot="m", variant=slot.variant, profile="a lie", release="another")
    send(world, 2, now, slot="m", variant="sha256:of-before")
    world.clock.advance(keeping.ROUND_S)
    world.turn()
    found = {rollup.origin.variant: rollup.origin for rollup in rollups(world)}
    assert set(found) == {slot.variant, "sha256:of-before"}
    assert found[slot.variant].release == release.id
    assert found["sha256:of-before"].release == ""
    profile = world.store.devices.get("a").profile
    assert profile
    assert {origin.profile for origin in found.values()} == {profile}


@pytest.mark.parametrize("wrong_s", [0.0, 5e9, -1e9], ids=["1970", "2128", "before"])
def test_a_clock_that_is_wrong_moves_no_sample_out_of_reach(world: Any, wrong_s: float) -> None:
    world.join("a")
    world.clock.advance(1.8e9)
    send(world, 1, wrong_s, rows=3)
    now = world.clock()
    walls = [wall for wall, _ in world.store.telemetry.latest("a", "x_ms", 9)]
    assert walls == pytest.approx([now, now - 1, now - 2], abs=0.1)


def test_a_device_that_was_away_keeps_its_times(world: Any) -> None:
    world.join("a")
    world.clock.advance(1.8e9)
    then = world.clock() - 30 * DAY_S
    send(world, 1, then)
    assert world.store.telemetry.latest("a", "x_ms", 9) == ((pytest.approx(then), 1.0),)


def test_what_is_old_goes_once_it_is_rolled_up(world: Any) -> None:
    world.settings = ReconcileSettings(
        retention=Retention(
            raw=Bound(age_s=DAY_S, rows=5), hour=Bound(age_s=3 * DAY_S, rows=99),
            day=Bound(age_s=30 * DAY_S, rows=99),
        )
    )  # fmt: skip
    world.start()
    world.join("a")
    for sequence in range(1, 11):
        send(world, sequence, world.clock() - 60 + sequence)
    world.turn()
    assert world.store.telemetry.count("a") == 5
    assert sum(hour.count for hour in rollups(world)) == 10
    for days, raw, hours, day in ((2, 0, True, True), (2, 0, False, True), (40, 0, False, False)):
        world.clock.advance(days * DAY_S)
        world.turn()
        held = world.store.telemetry.held()
        assert (held.rows, held.hours > 0, held.days > 0) == (raw, hours, day)
    send(world, 7, world.clock())  # its ack was lost
    assert world.store.telemetry.held().rows_ever == 10


def test_a_round_is_not_begun_again_at_once(world: Any) -> None:
    world.join("a")
    world.turn()
    send(world, 1, world.clock())
    world.turn()
    assert rollups(world) == ()
    world.clock.advance(keeping.ROUND_S)
    world.turn()
    assert len(rollups(world)) == 1


def test_a_tick_stays_short_and_the_next_one_goes_on(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.join("a")
    for sequence in range(1, 6):
        send(world, sequence, world.clock(), rows=keeping.STEP_ROWS)
    monkeypatch.setattr(keeping, "BUDGET_S", 0.0)
    going = keeping.Round()
    counts = []
    for _ in range(5):
        going = keeping.advance(world.controller.context, going)
        counts.append(sum(rollup.count for rollup in rollups(world)))
    assert counts == [200, 400, 600, 800, 1000]
    assert going == replace(keeping.Round(), at=None)
    for left in range(len(Keep) - 1, -1, -1):
        assert going.begins_at == 0.0
        going = keeping.advance(world.controller.context, going)
        assert len(going.left) == left
    going = keeping.advance(world.controller.context, going)
    assert going.begins_at == world.clock() + keeping.ROUND_S
