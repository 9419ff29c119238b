"""Weeks of telemetry: what one device does alone, what all do, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet, triggers
from controller.domain.fleet import TriggerKind
from controller.domain.tickets import NO_CAUSE, Ticket, TicketState
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import fitting, optimising, servicing
from controller.testing import variant
from fitment.core.link import Uplink
from fitment.core.telemetry import Column, TelemetryBatch

DAY_S = 86_400.0
NAMES = ("a", "b", "c", "d", "e")
Columns = Callable[[str], Mapping[str, Any]]  # values of all hours, or of each


@pytest.fixture
def running(world: Any) -> Any:
    return settled_fleet(world)


def settled_fleet(world: Any) -> Any:
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
    values: dict[str, Any] = {"cpu_mhz": 2000.0, "temperature_c": 61.0, **columns(name)}
    served = values.pop("ms")
    values["serving.m.latency_p50_ms"] = served
    walls = tuple(int((begins + 3600.0 * hour) * 1e9) for hour in range(24))
    return TelemetryBatch(
        outbox="o", sequence=int(begins // DAY_S), first_available=int(begins // DAY_S),
        boot_id="b", monotonic_ns=walls, wall_unix_ns=walls,
        columns={
            k: Column(values=v if isinstance(v, tuple) else (v,) * 24) for k, v in values.items()
        },
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
    # Its own baseline is that of an ill device: only its peers can say that it is well.
    world.clock.advance(DAY_S - world.clock() % DAY_S)
    live(world, 5, lambda name: {"ms": 5.0 if name == "e" else 0.3})
    (ticket,) = world.store.tickets.find()
    assert ticket.state is TicketState.OPEN
    live(world, 2, lambda _name: {"ms": 0.3})
    (ticket,) = world.store.tickets.find()
    assert (ticket.state, ticket.result) == (TicketState.CLOSED, "it does as its peers do again")


def test_a_budget_that_a_cohort_missed_is_read_no_more_once_it_was_asked_about(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = fleet.Budget(accuracy_drop_max=0.01, latency_p95_max_ms=0.6)
    world.model = replace(world.model, budget=budget)
    for name in NAMES:
        world.join(name)
    release = world.released()
    for device in world.devices.values():
        device.times_ms = {"fp32": 5.0, "int8": 5.0}
    world.controller.create_rollout(release.id, _plan())
    world.settle(60)
    (trigger,) = world.store.triggers.find()
    assert trigger.closed_at
    read = []
    monkeypatch.setattr(triggers, "shared", lambda *numbers: read.append(numbers) or True)
    for name in NAMES:
        optimising.look(world.controller.context, name)
    assert read == []


def test_what_was_measured_is_not_read_where_nothing_moved(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.model = replace(world.model, budget=fleet.Budget(latency_p95_max_ms=5.0))
    for name in NAMES:
        world.join(name)
    made = world.controller.create_rollout(world.released().id, _plan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    world.clock.advance(DAY_S - world.clock() % DAY_S)
    read, measured = [], fitting.measured
    monkeypatch.setattr(fitting, "measured", lambda *given: read.append(1) or measured(*given))
    live(world, 5, as_ever)
    assert read == []
    live(world, 2, lambda _name: {"ms": 1.05})
    assert read, "it may be above the budget now"


def test_an_answer_at_the_same_heat_is_compared_with_one_at_the_same_heat(running: Any) -> None:
    world = running
    live(world, 3, lambda _name: {
        "ms": (1.0, 1.0, 2.0) * 8, "temperature_c": (61.0, 61.0, 71.0) * 8,
    })  # fmt: skip
    live(world, 8, lambda _name: {"ms": 3.0, "temperature_c": 71.0}, turns=20)
    (trigger,) = world.store.triggers.find()
    assert trigger.same_heat == pytest.approx(math.log(1.5), abs=0.05)
    assert trigger.shift > trigger.same_heat + 0.2, "most of it is the weather"


def test_the_device_in_the_middle_times_anew_where_it_can(running: Any) -> None:
    world = running
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 1.6}
    slow = {"a": 5.0, "b": 5.1, "c": 5.3, "d": 5.5, "e": 5.6}
    live(world, 1, lambda name: {"ms": slow[name]}, turns=40)
    (trigger,) = world.store.triggers.find()
    assert trigger.device == "c"
    studies = [world.store.studies.get(key) for key in world.job(trigger.job).studies]
    assert {study.device for study in studies} == {"c"}


def test_an_operator_refuses_what_a_trigger_asks_for(running: Any) -> None:
    world = running
    world.controller.set_policy("m", "propose")
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 1.6}
    live(world, 1, lambda _name: {"ms": 5.3}, turns=40)
    (trigger,) = world.store.triggers.find()
    assert trigger.waits
    with pytest.raises(UserError, match="say why"):
        world.controller.close_trigger(trigger.id, " ")
    closed = world.controller.close_trigger(trigger.id, "int8 stays")
    assert (closed.result, closed.waits) == ("closed by an operator: int8 stays", "")
    assert closed.closed_at
    (entry,) = world.store.audit.find(action="trigger_closed")
    assert entry.actor == "operator"
    with pytest.raises(Conflict, match="closed already: closed by an operator"):
        world.controller.close_trigger(trigger.id, "again")
    with pytest.raises(NotFound, match="fitment trigger list"):
        world.controller.close_trigger("none", "it is none")
    world.settle()
    assert {world.runs(name) for name in NAMES} == {"int8"}


def test_a_trigger_whose_rollout_has_begun_is_not_refused_but_its_rollout_cancelled(
    running: Any,
) -> None:
    world = running
    world.controller.set_policy("m", "canary")
    live(world, 3, as_ever)
    for device in world.devices.values():
        device.times_ms = {"fp32": 1.0, "int8": 1.6}
    live(world, 1, lambda _name: {"ms": 5.3}, turns=40)
    (trigger,) = world.store.triggers.find()
    with pytest.raises(Conflict, match=f"fitment rollout cancel {trigger.rollout}"):
        world.controller.close_trigger(trigger.id, "too late")


def test_a_ticket_is_of_a_slot_whatever_version_runs_there(running: Any) -> None:
    world = running
    context = world.controller.context
    cohort = world.store.devices.get("a").cohort
    first = Ticket(
        id="t1", device="a", model="m-1", slot="m", variant="v", cohort=cohort, opened_at=1.0,
        updated_at=1.0, summary="slow",
    )  # fmt: skip
    servicing.open_(context, first)
    servicing.open_(context, replace(first, id="t2", model="m-2", summary="slower"))
    (ticket,) = world.store.tickets.find()
    assert (ticket.id, ticket.model, ticket.summary) == ("t1", "m-2", "slower")
    servicing.open_(context, replace(first, id="t3", slot="other"))
    assert len(world.store.tickets.find()) == 2
    world.controller.revoke("a")
    assert {(t.state, t.result) for t in world.store.tickets.find()} == {
        (TicketState.CLOSED, "the device was revoked")
    }


def test_a_change_that_waits_for_a_cool_down_is_not_looked_at_each_tick(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = running
    looked = []
    monkeypatch.setattr(optimising, "look", lambda _context, name: looked.append(name) or True)
    world.controller.on_link_up("a")
    world.devices["a"].connect()
    for _ in range(9):
        world.controller.tick()
        world.clock.advance(1.0)
    assert looked.count("a") == 1
    world.clock.advance(10.0)
    world.controller.tick()
    assert looked.count("a") == 2


def test_a_fit_that_timed_at_another_level_is_not_taken_for_the_baseline(world: Any) -> None:
    """Slow by two fifths, answered with nothing better, and slower again since."""
    world.model = replace(world.model, budget=fleet.Budget(
        accuracy_drop_max=0.01, latency_p95_max_ms=5.0
    ))  # fmt: skip
    world.variants = (variant("fp32", 9.0), variant("int8", 4.0, drop=0.008))
    world.fits._variants = world.variants
    for name in NAMES:
        world.join(name, times_ms={"fp32": 9.0, "int8": 4.0})
    made = world.controller.create_rollout(world.released().id, _plan())
    world.until(lambda: world.rollout(made.id).state is fleet.RolloutState.COMPLETED)
    world.clock.advance(DAY_S - world.clock() % DAY_S)
    live(world, 3, lambda _name: {"ms": 4.0})
    for device in world.devices.values():
        device.times_ms = {"fp32": 9.0, "int8": 5.6}
    live(world, 2, lambda _name: {"ms": 5.6}, turns=20)
    live(world, 4, lambda _name: {"ms": 7.2}, turns=20)
    first, second = world.store.triggers.find()
    assert first.result.startswith("no variant keeps to the budget")
    assert first.kind is second.kind is TriggerKind.BUDGET_MISSED
    assert second.level_ms / first.level_ms == pytest.approx(7.2 / 5.6, rel=0.03)
