"""Weeks of telemetry: what one device does alone, what all do, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.fleet import TriggerKind
from controller.domain.tickets import NO_CAUSE, TicketState
from controller.errors import Conflict, NotFound, UserError
from controller.testing import variant
from fitment.core.link import Uplink
from fitment.core.telemetry import Column, TelemetryBatch

DAY_S = 86_400.0
NAMES = ("a", "b", "c", "d", "e")
Columns = Callable[[str], Mapping[str, float]]


@pytest.fixture
def running(world: Any) -> Any:
    """Five devices that run what was chosen for them."""
    for name in NAMES:
        world.join(name)
    made = world.controller.create_rollout(world.released().id, _plan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    world.clock.advance(DAY_S - world.clock() % DAY_S)
    return world


def _plan() -> Any:
    from controller.reconcile.rolling import RolloutPlan

    return RolloutPlan(waves=(1.0,), gate=fleet.Gate(latency_ratio_max=None))


def live(world: Any, days: int, columns: Columns, *, turns: int = 8) -> None:
    """Days of hourly samples, and a few ticks at the end of each."""
    for _ in range(days):
        begins = world.clock()
        world.clock.advance(DAY_S)
        for name in NAMES:
            world.controller.on_uplink(name, Uplink(telemetry=_day(world, name, begins, columns)))
        while world.store.telemetry.roll_up("", 1000) is not None:
            pass
        world.settle(turns)


def _day(world: Any, name: str, begins: float, columns: Columns) -> TelemetryBatch:
    values = {"cpu_mhz": 2000.0, "temperature_c": 61.0, **columns(name)}
    served = values.pop("ms")
    values["serving.m.latency_p50_ms"] = served
    walls = tuple(int((begins + 3600.0 * hour) * 1e9) for hour in range(24))
    return TelemetryBatch(
        outbox="o", sequence=int(begins // DAY_S), first_available=int(begins // DAY_S),
        boot_id="b", monotonic_ns=walls, wall_unix_ns=walls,
        columns={k: Column(values=(v,) * 24) for k, v in values.items()},
        tags={"slot": "m", "variant": world.devices[name].slots["m"].variant, "rung": "0"},
    )  # fmt: skip


def as_ever(_name: str) -> Mapping[str, float]:
    return {"ms": 1.0}


def dusty(name: str) -> Mapping[str, float]:
    if name != "c":
        return {"ms": 1.0}
    return {"ms": 1.5, "temperature_c": 83.0, "cpu_mhz": 1500.0}


def test_a_device_that_slows_down_alone_is_a_ticket_and_no_fit(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    assert world.store.tickets.find() == ()
    live(world, 3, dusty)
    (ticket,) = world.store.tickets.find()
    assert (ticket.device, ticket.state) == ("c", TicketState.OPEN)
    assert "1.5 ms, was 1 ms (+50 %); its 4 peers changed by +0 %" in ticket.summary
    assert ticket.causes[0].startswith("cooling: 83 °C, was 61 °C (+22 °C")
    assert "clocks: 1500 MHz, were 2000 MHz (-25 %)" in ticket.causes
    assert world.store.triggers.find() == ()
    # It is known, so it is neither opened again nor asked to speak for its cohort.
    live(world, 2, dusty)
    assert len(world.store.tickets.find()) == 1
    live(world, 2, as_ever)
    (ticket,) = world.store.tickets.find()
    assert (ticket.state, ticket.result) == (TicketState.CLOSED, "it does as its peers do again")
    assert [a for a in world.actions() if "ticket" in a] == ["ticket_opened", "ticket_closed"]


def test_an_operator_closes_a_ticket_and_it_comes_again_if_nothing_is_better(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    live(world, 2, lambda name: {"ms": 1.5 if name == "c" else 1.0})
    (ticket,) = world.store.tickets.find()
    assert ticket.causes == (), "nothing is made up where no sensor shows anything"
    assert NO_CAUSE
    world.controller.acknowledge_ticket(ticket.id)
    world.controller.close_ticket(ticket.id, "blew the fan clean")
    with pytest.raises(Conflict, match="the ticket is closed"):
        world.controller.close_ticket(ticket.id, "")
    with pytest.raises(NotFound, match="fitment ticket list"):
        world.controller.ticket("none")
    world.settle()
    assert len(world.store.tickets.find()) == 1, "what it did before it was mended does not count"
    live(world, 2, lambda name: {"ms": 1.5 if name == "c" else 1.0})
    assert [t.state for t in world.store.tickets.find()] == [TicketState.CLOSED, TicketState.OPEN]


def test_what_all_of_a_cohort_share_is_one_trigger_and_a_fresh_look(running: Any) -> None:
    """int8 became slow on all of them: a device times the best few anew, and all get the other."""
    world = running
    live(world, 3, as_ever)
    assert world.runs("a") == "int8"
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 1.6}
    live(world, 3, lambda name: {"ms": 5.3 if world.runs(name) == "int8" else 1.0}, turns=40)
    (trigger,) = world.store.triggers.find()
    assert trigger.kind is TriggerKind.SHIFTED
    assert "5 devices became slower together" in trigger.reason
    assert set(trigger.joined) == set(NAMES)
    assert world.store.tickets.find() == ()
    assert "rollout completed: 5 of 5 committed" in trigger.result
    assert {world.runs(name) for name in NAMES} == {"fp32"}
    fits = world.store.jobs.find()
    assert [job.cached for job in fits] == [False, True]
    (made,) = [r for r in world.store.rollouts.find() if r.trigger]
    assert made.waves == (0.2, 1.0), "a canary goes first"
    live(world, 5, lambda _name: {"ms": 1.0})
    assert len(world.store.triggers.find()) == 1, "the loop must come to rest"


def test_without_anything_better_a_shift_is_answered_once(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    live(world, 8, lambda _name: {"ms": 1.5}, turns=20)
    (trigger,) = world.store.triggers.find()
    assert trigger.result.startswith("the same variant is still right")
    assert trigger.shift == pytest.approx(math.log(1.5), abs=0.05)


def test_a_cohort_that_became_faster_can_afford_more(world: Any) -> None:
    """Upwards by the same path: what is more accurate had no room, and has it now."""
    world.variants = (variant("fp32", 6.0), variant("int8", 4.0, drop=0.008))
    world.model = replace(world.model, budget=fleet.Budget(
        accuracy_drop_max=0.01, latency_p95_max_ms=5.0, prefer="accuracy"
    ))  # fmt: skip
    world.fits._variants = world.variants
    slow, fast = {"fp32": 6.0, "int8": 4.0}, {"fp32": 3.0, "int8": 2.0}
    for name in NAMES:
        world.join(name, times_ms=slow)
    made = world.controller.create_rollout(world.released().id, _plan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    world.clock.advance(DAY_S - world.clock() % DAY_S)
    assert world.runs("a") == "int8"
    live(world, 3, lambda _name: {"ms": 4.0})
    for device in world.devices.values():
        device.times_ms = fast
    live(world, 3, lambda name: {"ms": fast[world.runs(name)]}, turns=40)
    (trigger,) = world.store.triggers.find()
    assert trigger.kind is TriggerKind.AFFORDABLE
    assert "fp32 is more accurate, and would take about" in trigger.reason
    assert {world.runs(name) for name in NAMES} == {"fp32"}
    live(world, 5, lambda _name: {"ms": 3.0})
    assert len(world.store.triggers.find()) == 1


@pytest.mark.parametrize(
    ("policy", "approved", "updated", "waits"),
    [
        ("propose", False, 0, "fitment model approve m"),
        ("canary", True, 1, "fitment rollout resume"),
        ("auto", True, 5, ""),
    ],
)
def test_a_policy_says_how_far_the_loop_goes(
    running: Any, policy: str, approved: bool, updated: int, waits: str
) -> None:
    world = running
    world.controller.set_policy("m", policy)
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 1.6}
    live(world, 2, lambda _name: {"ms": 5.3}, turns=40)
    (trigger,) = world.store.triggers.find()
    release = world.store.releases.get(trigger.release)
    assert release is not None
    assert bool(release.approved_at) is approved
    assert sum(world.runs(name) == "fp32" for name in NAMES) == updated
    assert waits in trigger.waits
    if policy == "propose":
        world.controller.approve_release(release.id)
    elif policy == "canary":
        world.controller.resume(trigger.rollout)
    world.settle(40)
    assert {world.runs(name) for name in NAMES} == {"fp32"}
    assert world.store.triggers.find()[0].waits == ""
    assert "policy_applied" in world.actions()


def test_a_policy_is_said_for_a_model_or_for_all(world: Any) -> None:
    world.controller.register_model(world.model)
    assert world.controller.policy("m").value == "auto", "as auto_approve always had it"
    world.controller.set_policy("", "canary")
    assert world.controller.policy("m").value == "canary"
    world.controller.set_policy("m", "propose")
    assert world.controller.policy("m").value == "propose"
    assert world.controller.policy().value == "canary"
    world.controller.set_policy("m", "")
    assert world.controller.policy("m").value == "canary"
    with pytest.raises(UserError, match="propose, canary, auto, not 'maybe'"):
        world.controller.set_policy("m", "maybe")
    with pytest.raises(NotFound, match="no model 'x'"):
        world.controller.set_policy("x", "auto")
    assert world.actions().count("policy_set") == 3


def test_a_fleet_that_upgrades_is_one_trigger_a_cohort(running: Any) -> None:
    """Each device says it by itself, some late; who comes before the release is in it."""
    from controller.testing import fingerprint

    world = running
    upgraded = fingerprint(runtime="1.32")
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 4.0}
    for name in NAMES[:3]:
        world.devices[name].change(upgraded)
    world.turn()
    world.devices["d"].change(upgraded)
    world.until(lambda: bool(world.store.triggers.find()[0].rollout))
    (trigger,) = world.store.triggers.find()
    assert set(trigger.joined) == set(NAMES[:4])
    world.settle()
    assert [world.runs(name) for name in NAMES] == [*["fp32"] * 4, "int8"]
    world.devices["e"].change(upgraded)
    world.settle(80)
    first, late = world.store.triggers.find()
    assert (set(late.joined), bool(late.closed_at)) == ({"e"}, True)
    assert world.runs("e") == "fp32"
    assert [job.cached for job in world.store.jobs.find()] == [False, False, True]
    assert first.job != late.job


def test_one_device_that_misses_a_budget_alone_is_a_ticket(world: Any) -> None:
    budget = fleet.Budget(accuracy_drop_max=0.01, latency_p95_max_ms=0.6)
    world.model = replace(world.model, budget=budget)
    for name in NAMES:
        world.join(name)
    release = world.released()
    world.devices["e"].times_ms = {"fp32": 1.0, "int8": 5.0}
    made = world.controller.create_rollout(release.id, replace(_plan(), waves=(0.8, 1.0)))
    world.settle(40)
    assert world.rollout(made.id).state is fleet.RolloutState.COMPLETED
    (ticket,) = world.store.tickets.find()
    assert ticket.device == "e"
    assert "4 of 5 devices of its cohort keep to it" in ticket.summary
    assert world.store.triggers.find() == ()
