"""Rollouts with maintenance windows: whose time, what is sent, what is refused, what follows."""

from __future__ import annotations

import datetime as dt
import json
import zoneinfo
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.fleet import RolloutState
from controller.domain.rollout import View
from controller.errors import UserError
from controller.reconcile.rolling import REVERT, RolloutPlan
from controller.testing import commit, fingerprint
from fitment.core import plain
from fitment.core.deployment import Assignment, DeploymentReport, DeploymentState, Outcome, Span

DAY = 86_400.0
NIGHT = RolloutPlan(waves=(1.0,), deadline_s=8 * DAY, windows=("daily 02:00 +2h Europe/Berlin",))


def hang(_order: Assignment) -> Outcome | None:
    return None


def joined(world: Any, names: str, **changes: object) -> fleet.Release:
    world.clock.now = dt.datetime(2026, 11, 24, 15, tzinfo=dt.timezone.utc).timestamp()
    for name in names:
        world.join(name, **changes)
    release: fleet.Release = world.released()
    return release


def ordered(world: Any, name: str) -> Assignment | None:
    """What a device was sent, as it was signed."""
    desired = world.devices[name].desired
    for signed in desired.assignments if desired else ():
        assert world.trust.director.holds(signed)
        return plain.from_plain(Assignment, json.loads(signed.payload))
    return None


def first_opens(order: Assignment | None, zone: str) -> str:
    assert order is not None
    moment = dt.datetime.fromtimestamp(order.windows[0].opens_unix, tz=zoneinfo.ZoneInfo(zone))
    return f"{moment:%m-%d %H:%M}"


def test_the_order_says_the_moments_until_the_deadline(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    order = ordered(world, "a")
    assert order is not None
    opens = [span.opens_unix for span in order.windows]
    assert len(opens) == 8
    assert {b - a for a, b in pairwise(opens)} == {int(DAY)}
    assert {s.closes_unix - s.opens_unix for s in order.windows} == {7200}
    assert first_opens(order, "Europe/Berlin") == "11-25 02:00"
    (deployment,) = world.store.deployments.find()
    assert deployment.windows == order.windows
    assert order.deadline_s == 8 * DAY


def test_an_order_for_metered_links_says_so_and_what_waits_is_known(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    made = world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,), metered=True))
    world.settle(3)
    order = ordered(world, "a")
    assert made.metered
    assert order is not None
    assert order.metered
    (deployment,) = world.store.deployments.find()
    said = DeploymentReport(
        deployment=deployment.id, slot=order.slot, variant=order.bundle.variant,
        state=DeploymentState.FETCHING, held="this needs more than is left",
    )  # fmt: skip
    world.devices["a"].reports[deployment.id] = said
    world.devices["a"].report()
    (deployment,) = world.store.deployments.find()
    assert (deployment.held, deployment.outcome) == ("this needs more than is left", None)


@pytest.mark.parametrize(
    ("label", "says", "window", "zone"),
    [
        ("", "", "Europe/Berlin", "Europe/Berlin"),
        ("", "America/New_York", "Europe/Berlin", "America/New_York"),
        ("", "America/New_York", "Europe/Berlin everywhere", "Europe/Berlin"),
        ("Asia/Tokyo", "America/New_York", "Europe/Berlin", "Asia/Tokyo"),
        ("", "Moon/Tycho", "Europe/Berlin", "Europe/Berlin"),
        ("Moon/Tycho", "America/New_York", "Europe/Berlin", "America/New_York"),
    ],
)
def test_whose_time_it_is(world: Any, label: str, says: str, window: str, zone: str) -> None:
    release = joined(world, "a", behave=hang, time_zone=says)
    labels = {"time_zone": label} if label else {}
    world.store.devices.put(replace(world.store.devices.get("a"), labels=labels))
    asked = replace(NIGHT, windows=(f"daily 02:00 +2h {window}",))
    world.controller.create_rollout(release.id, asked)
    world.settle(3)
    assert first_opens(ordered(world, "a"), zone).endswith("02:00")


@pytest.mark.parametrize(
    ("window", "deadline_s", "says"),
    [
        ("daily 02:00 +0h UTC", 8 * DAY, "too short"),
        ("2026-11-01 02:00 +2h UTC", 8 * DAY, "is over"),
        ("daily 02:00 +2h UTC", 3600.0, "no device would switch"),
        ("daily 02:00 +2h Mars/Olympus", 8 * DAY, "no IANA time zone"),
        ("daily 02:00 +2h Europe/Berln", 8 * DAY, "did you mean Europe/Berlin"),
    ],
)
def test_a_window_that_never_opens_is_refused(
    world: Any, window: str, deadline_s: float, says: str
) -> None:
    release = joined(world, "a")
    with pytest.raises(UserError, match=says):
        world.controller.create_rollout(
            release.id, replace(NIGHT, windows=(window,), deadline_s=deadline_s)
        )
    assert world.store.rollouts.find() == ()


def test_it_is_refused_for_a_device_in_whose_zone_it_comes_too_late(world: Any) -> None:
    release = joined(world, "a", time_zone="America/New_York")
    asked = replace(NIGHT, windows=("2026-11-25 02:00 +2h UTC",), deadline_s=12 * 3600.0)
    with pytest.raises(UserError, match="no device would switch"):
        world.controller.create_rollout(release.id, asked)
    always = replace(asked, windows=("2026-11-25 02:00 +2h UTC everywhere",))
    assert world.controller.create_rollout(release.id, always)


def test_an_older_agent_is_given_no_order_that_it_would_not_keep_to(world: Any) -> None:
    release = joined(world, "ab")
    world.devices["a"].understands = ()
    world.turn()
    rollout = world.controller.create_rollout(release.id, NIGHT)
    world.settle()
    made = world.rollout(rollout.id)
    assert made.state is RolloutState.COMPLETED
    assert made.pending == ("a",)
    assert "never reached: a; too old an agent for maintenance windows: a" in made.reasons[-1]
    assert (world.runs("a"), world.runs("b")) == ("", "int8")
    assert world.devices["a"].desired is None or not world.devices["a"].desired.assignments
    world.devices["a"].understands = ("windows",)  # the agent was brought up to date
    world.settle()
    assert world.runs("a") == "int8"


def test_a_fleet_of_older_agents_is_told_apart_at_once(world: Any) -> None:
    release = joined(world, "a", understands=())
    with pytest.raises(UserError, match="no agent of the selection keeps to maintenance windows"):
        world.controller.create_rollout(release.id, NIGHT)


def test_an_order_without_its_windows_is_never_sent(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    (deployment,) = world.store.deployments.find()
    world.store.deployments.put(replace(deployment, windows=()))  # a store that was tampered with
    world.devices["a"].disconnect()
    world.devices["a"].connect()
    world.settle(3)
    assert ordered(world, "a") is None


def test_a_deployment_waits_through_a_restart_of_the_controller(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    before = ordered(world, "a")
    world.clock.advance(3 * 3600.0)
    world.start()
    world.settle(3)
    assert ordered(world, "a") == before, "the moments were fixed when it was admitted"


def test_cancelled_and_reverted_while_it_waits(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    rollout = world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    world.controller.cancel(rollout.id)
    world.settle(3)
    assert ordered(world, "a") is None


def wait(_order: Assignment) -> Outcome | None:
    """Staged, outside its windows."""
    return None


@pytest.mark.parametrize("state", [DeploymentState.FETCHING, DeploymentState.WAITING])
def test_a_pause_takes_back_who_has_not_begun_to_switch(world: Any, state: DeploymentState) -> None:
    release = joined(world, "a", behave=wait)
    rollout = world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    (first,) = world.store.deployments.find()
    world.devices["a"].reports.clear()
    world.store.deployments.put(replace(first, state=state))
    world.controller.pause(rollout.id)
    world.turn()
    (held,) = world.store.deployments.find()
    assert (held.outcome, held.held_back) == (Outcome.CANCELLED, True)
    assert ordered(world, "a") is None
    world.devices["a"].behave = commit
    world.controller.resume(rollout.id)
    world.settle()
    assert world.runs("a") == "int8"
    assert world.rollout(rollout.id).state is RolloutState.COMPLETED
    assert [d.outcome for d in world.store.deployments.find()] == [
        Outcome.CANCELLED, Outcome.COMMITTED,
    ]  # fmt: skip


def test_a_pause_leaves_who_has_begun_to_switch(world: Any) -> None:
    release = joined(world, "a", behave=wait)
    rollout = world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    (first,) = world.store.deployments.find()
    world.devices["a"].reports.clear()
    world.store.deployments.put(replace(first, state=DeploymentState.TRIAL))
    world.controller.pause(rollout.id)
    assert world.store.deployments.find()[0].outcome is None


def test_a_halt_takes_back_who_would_switch_hours_later(world: Any) -> None:
    release = joined(world, "abcd")
    for name in "bc":
        world.devices[name].behave = wait
    world.devices["a"].behave = lambda _: Outcome.ROLLED_BACK
    rollout = world.controller.create_rollout(release.id, NIGHT)
    world.settle()
    assert world.rollout(rollout.id).state is RolloutState.HALTED
    found = {d.device: d for d in world.store.deployments.find()}
    assert found["b"].held_back
    assert found["c"].held_back
    assert not found["a"].held_back
    assert ordered(world, "b") is None
    committed = replace(found["b"], outcome=Outcome.COMMITTED)
    assert View(rollout=rollout, targets=(), deployments={"b": committed}, now=0.0).reached(
        world.store.devices.get("b")
    ), "a device that switched all the same has had its turn"


@pytest.mark.parametrize(("rung", "kept"), [(0, ()), (1, NIGHT.windows)])
def test_what_does_not_serve_is_mended_at_any_time(
    world: Any, rung: int, kept: tuple[str, ...]
) -> None:
    """Unless a rung serves in its place: then there is time until the window."""
    release = joined(world, "a")
    world.controller.create_rollout(release.id, NIGHT)
    world.settle()
    twin = world.devices["a"]
    twin.behave = wait
    twin.times_ms = {"fp32": 1.0, "int8": 4.0, "tiny": 0.2}
    twin.slots = {
        k: replace(s, golden_ok=False, serving=False, rung=rung) for k, s in twin.slots.items()
    }
    twin.change(fingerprint(runtime="1.32"))
    world.until(lambda: bool(world.store.triggers.find()))
    world.settle()
    again = [r for r in world.store.rollouts.find() if r.trigger]
    assert [r.windows for r in again] == [kept]


def test_a_revert_waits_for_no_window(world: Any) -> None:
    release = joined(world, "a")
    first = world.controller.create_rollout(release.id, replace(NIGHT, windows=()))
    world.settle()
    later = replace(release, id="later", counter=release.counter + 1, approved_at=0.0)
    world.store.releases.add(later)
    world.controller.approve_release("later")
    second = world.controller.create_rollout("later", NIGHT)
    world.settle()
    world.controller.revert(second.id)
    world.settle()
    assert world.rollout(second.id).state is RolloutState.REVERTED
    assert world.rollout(first.id).state is RolloutState.COMPLETED
    assert not any(d.windows for d in world.store.deployments.find() if d.release != "later")


def test_after_the_last_window_an_operator_is_asked(world: Any) -> None:
    release = joined(world, "abc")
    world.devices["b"].disconnect()
    asked = replace(NIGHT, windows=("2026-11-25 02:00 +2h Europe/Berlin",), soak_s=2 * DAY)
    asked = replace(asked, waves=(0.3, 1.0))
    rollout = world.controller.create_rollout(release.id, asked)
    world.settle()
    world.clock.advance(DAY)
    world.devices["b"].connect()
    world.settle(5)
    made = world.rollout(rollout.id)
    assert made.state is RolloutState.PAUSED
    assert "the last maintenance window is over; not reached: b, c;" in made.asks
    assert world.runs("b") == ""


def test_a_device_whose_zone_was_not_counted_on_is_not_switched_at_any_time(world: Any) -> None:
    release = joined(world, "a")
    asked = replace(NIGHT, windows=("2026-11-25 02:00 +2h America/New_York",))
    world.devices["a"].disconnect()
    world.controller.create_rollout(release.id, asked)
    world.clock.advance(15 * 3600.0)  # 06:00 UTC: over in Tokyo, to come in New York
    world.devices["a"].time_zone = "Asia/Tokyo"
    world.devices["a"].connect()
    world.settle(5)
    assert {d.outcome for d in world.store.deployments.find()} == {Outcome.CANCELLED}
    assert world.runs("a") == ""


def test_what_a_trigger_rolls_out_keeps_to_the_windows_of_before(world: Any) -> None:
    release = joined(world, "a")
    world.controller.create_rollout(release.id, NIGHT)
    world.settle()
    twin = world.devices["a"]
    twin.behave = hang
    twin.times_ms = {"fp32": 1.0, "int8": 4.0, "tiny": 0.2}  # int8 kernels are gone
    twin.change(fingerprint(runtime="1.32"))
    world.until(lambda: bool(world.store.triggers.find()))
    world.settle()
    again = [r for r in world.store.rollouts.find() if r.trigger]
    assert [r.windows for r in again] == [NIGHT.windows]
    order = ordered(world, "a")
    assert order is not None
    assert order.windows


def test_the_deadline_ends_what_never_switched(world: Any) -> None:
    release = joined(world, "a", behave=hang)
    world.controller.create_rollout(release.id, NIGHT)
    world.settle(3)
    world.clock.advance(8 * DAY)
    world.settle(3)
    (deployment,) = world.store.deployments.find()
    assert deployment.outcome is Outcome.TIMED_OUT
    assert isinstance(deployment.windows[0], Span)


def test_a_way_back_does_not_forget_the_windows(world: Any) -> None:
    release = joined(world, "a")
    world.controller.create_rollout(release.id, NIGHT)
    world.settle()
    world.store.releases.add(
        replace(release, id="later", counter=release.counter + 1, approved_at=0.0)
    )
    world.controller.approve_release("later")
    second = world.controller.create_rollout("later", NIGHT)
    world.settle()
    world.controller.revert(second.id)
    world.settle()
    twin = world.devices["a"]
    twin.behave = hang
    twin.times_ms = {"fp32": 1.0, "int8": 4.0, "tiny": 0.2}
    twin.change(fingerprint(runtime="1.32"))
    world.until(lambda: bool(world.store.triggers.find()))
    world.settle()
    made = world.store.rollouts.find()
    again = [r for r in made if r.trigger and not r.trigger.startswith(REVERT)]
    assert [r.windows for r in again] == [NIGHT.windows]
