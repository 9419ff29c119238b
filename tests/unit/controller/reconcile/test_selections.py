"""Groups, rollouts to what devices are, their preview, and another turn for who failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.domain import fleet
from controller.domain.eligible import Bar
from controller.domain.fleet import RolloutState
from controller.domain.preview import Preview
from controller.errors import Conflict, NotFound, UserError
from controller.reconcile import grouping
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import Assignment, Outcome

AT_ONCE = RolloutPlan(waves=(1.0,))


def fail(_order: Assignment) -> Outcome | None:
    return Outcome.ROLLED_BACK


def label(world: Any, name: str, **labels: str) -> None:
    known = world.store.devices.get(name)
    world.store.devices.put(replace(known, labels={**known.labels, **labels}))


def joined(world: Any, **sites: str) -> fleet.Release:
    for name, site in sites.items():
        world.join(name)
        label(world, name, site=site)
    release: fleet.Release = world.released()
    return release


def test_a_group_is_looked_at_anew_each_time(world: Any) -> None:
    joined(world, a="lab", b="office")
    made = grouping.create(world.controller.context, "lab", ' label.site == "lab" ')
    assert made.where == 'label.site == "lab"'
    assert [d.name for d in grouping.members(world.controller.context, made.where)] == ["a"]
    label(world, "b", site="lab")
    assert [d.name for d in grouping.members(world.controller.context, made.where)] == ["a", "b"]
    grouping.change(world.controller.context, "lab", 'label.site == "moon"')
    why = grouping.why_nobody(world.controller.context, 'label.site == "moon"')
    assert why == 'no device matches now: label.site is "lab" (2 devices)'
    grouping.delete(world.controller.context, "lab")
    with pytest.raises(NotFound, match="no group is named 'lab'"):
        grouping.get(world.controller.context, "lab")
    assert [a for a in world.actions() if a.startswith("group_")] == [
        "group_created", "group_changed", "group_deleted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "where", "error", "says"),
    [
        ("a b", "online", UserError, "cannot be a group's name"),
        ("g", " ", UserError, "a group needs an expression"),
        ("g", "online and not online", UserError, "no device can ever match"),
        ("g", "onlin", UserError, "did you mean 'online'"),
        ("taken", "online", Conflict, "fitment group change taken"),
    ],
)
def test_a_group_that_cannot_be_says_why(
    world: Any, name: str, where: str, error: type[Exception], says: str
) -> None:
    grouping.create(world.controller.context, "taken", "online")
    with pytest.raises(error, match=says):
        grouping.create(world.controller.context, name, where)


def test_a_rollout_to_a_group_takes_late_joiners_and_says_who_left(world: Any) -> None:
    release = joined(world, a="lab", b="lab", c="office", d="lab")
    grouping.create(world.controller.context, "lab", 'label.site == "lab"')
    plan = RolloutPlan(group="lab", waves=(0.3, 1.0), soak_s=20.0)
    made = world.controller.create_rollout(release.id, plan)
    assert (made.group, made.where) == ("lab", 'label.site == "lab"')
    grouping.change(world.controller.context, "lab", 'label.site == "moon"')
    world.settle(6)
    assert world.runs("a") == "int8", "the group's expression is kept as it was"
    label(world, "c", site="lab")
    label(world, "d", site="office")
    label(world, "a", site="office")
    world.settle(60)
    assert world.rollout(made.id).state is RolloutState.COMPLETED
    assert [world.runs(n) for n in "abcd"] == ["int8", "int8", "int8", ""]
    assert world.controller.left(made.id) == {"d": 'label.site is "office"'}, "not a: it had it"
    label(world, "d", site="lab")
    assert world.controller.left(made.id) == {}, "it is back"


def test_who_no_longer_matches_once_it_runs_the_release_keeps_its_place(world: Any) -> None:
    """Else a wave's share would be one of ever fewer devices, and reach all of them."""
    release = joined(world, a="x", b="x", c="x", d="x")
    plan = RolloutPlan(where=f'release != "{release.id}"', waves=(0.25, 1.0), soak_s=1000.0)
    made = world.controller.create_rollout(release.id, plan)
    world.settle(40)
    assert world.rollout(made.id).wave == 0
    assert [world.runs(n) for n in "abcd"] == ["int8", "", "", ""]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (RolloutPlan(where='label.site == "a" and label.site == "b"'), "no device can ever match"),
        (RolloutPlan(where='label.site == "moon"'), r"there is no device of the selection .*site"),
        (RolloutPlan(where="label.site ="), "cannot read the expression"),
        (RolloutPlan(devices=("a",), where="online"), "not both"),
        (RolloutPlan(group="nobody"), "no group is named 'nobody'"),
        (RolloutPlan(selector={"site": "lab"}, where='label.site != "lab"'), "no device of the"),
    ],
)
def test_a_selection_that_reaches_nobody_says_why(world: Any, plan: RolloutPlan, says: str) -> None:
    release = joined(world, a="lab", b="office")
    with pytest.raises(UserError, match=says):
        world.controller.create_rollout(release.id, plan)
    with pytest.raises(UserError, match=says):
        world.controller.preview_rollout(release.id, plan)


def test_a_preview_is_what_then_happens(world: Any) -> None:
    release = joined(world, a="x", b="x", c="x", d="x", e="x", f="y")
    world.devices["c"].disconnect()
    other = replace(release, id="other", variants={}, counter=99)
    world.store.releases.add(other)
    plan = RolloutPlan(where='label.site == "x"', waves=(0.2, 0.6, 1.0))
    found: Preview = world.controller.preview_rollout(release.id, plan)
    assert world.store.rollouts.find() == ()
    assert found.reached == (1, 3, 5)
    assert [(p.device, p.wave, p.online) for p in found.places] == [
        ("a", 0, True), ("b", 1, True), ("c", 1, False), ("d", 2, True), ("e", 2, True),
    ]  # fmt: skip
    assert [(out.device, out.bar) for out in found.left_out] == [("f", Bar.NOT_SELECTED)]
    assert "offline (c)" in found.notes[0]
    world.devices["c"].connect()
    made = world.controller.create_rollout(release.id, plan)
    world.settle(40)
    waves = {d.device: d.wave for d in world.store.deployments.find(rollout=made.id)}
    assert waves == {p.device: p.wave for p in found.places}
    with pytest.raises(UserError, match="it runs int8 of it"):
        world.controller.preview_rollout(release.id, plan)


def test_a_preview_says_for_each_device_why_not(world: Any) -> None:
    release = joined(world, a="x", b="x", c="x", d="x", e="x", f="x")
    world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,), devices=("a",)))
    world.settle()
    world.devices["b"].understands = ()
    world.devices["b"].report()
    later = replace(release, id="later", counter=9)
    world.store.releases.add(later)
    world.devices["c"].slots["m"] = replace(
        world.devices["a"].slots["m"], release="later", counter=9
    )
    world.devices["c"].report()
    world.store.devices.put(fleet.Device(name="new", enrolled_at=1.0))
    world.store.devices.put(replace(world.store.devices.get("d"), profile="unheard-of"))
    known = world.store.devices.get("f")
    held = replace(known.reported, quarantined=(f"m/{next(iter(release.variants.values()))}",))
    world.store.devices.put(replace(known, reported=held))
    plan = RolloutPlan(windows=("daily 00:00 +2h UTC",), deadline_s=90_000.0)
    found = world.controller.preview_rollout(release.id, plan)
    assert {out.device: out.bar for out in found.left_out} == {
        "a": Bar.RUNS_IT, "b": Bar.OLD_AGENT, "c": Bar.AHEAD, "new": Bar.NOT_REPORTED,
        "d": Bar.NO_VARIANT, "f": Bar.QUARANTINED,
    }  # fmt: skip
    assert [p.device for p in found.places] == ["e"]


def test_who_failed_has_another_turn_and_gates_still_count_the_failure(world: Any) -> None:
    release = joined(world, a="x", b="x", c="x", d="x")
    gate = fleet.Gate(max_failure_share=0.5)
    world.devices["b"].behave = fail
    made = world.controller.create_rollout(release.id, replace(AT_ONCE, gate=gate))
    world.settle()
    assert world.rollout(made.id).state is RolloutState.COMPLETED
    world.devices["b"].behave = lambda _order: Outcome.COMMITTED
    again = world.controller.retry(made.id)
    assert (again.state, again.reasons[-1]) == (RolloutState.RUNNING, "tried again: b")
    with pytest.raises(Conflict, match="b waits for another turn"):
        world.controller.retry(made.id)
    world.settle()
    done = world.rollout(made.id)
    assert done.state is RolloutState.COMPLETED
    assert world.runs("b") == "int8"
    assert "3 of 4 committed" in done.reasons[-1], "the first attempt counts"
    assert "1 tried again, 1 of them committed" in done.reasons[-1]
    tries = [(d.attempt, d.outcome) for d in world.store.deployments.find(device="b")]
    assert tries == [(1, Outcome.ROLLED_BACK), (2, Outcome.COMMITTED)]
    reports, exposure = world.controller.judged(made.id)
    failures = next(report for report in reports if report.gate == "failures")
    assert (failures.samples, failures.estimate) == (4, 0.25)
    assert exposure.admitted == 4
    with pytest.raises(Conflict, match="no device of this rollout failed"):
        world.controller.retry(made.id)


def test_a_retry_does_not_mend_a_gate_that_failed(world: Any) -> None:
    release = joined(world, a="x", b="x")
    world.devices["a"].behave = fail
    made = world.controller.create_rollout(release.id, replace(AT_ONCE, waves=(0.5, 1.0)))
    world.settle()
    assert world.rollout(made.id).state is RolloutState.HALTED
    assert world.controller.retry(made.id).state is RolloutState.HALTED, "it does not go on by that"
    world.controller.resume(made.id)
    world.settle()
    assert world.rollout(made.id).state is RolloutState.HALTED, "its second failure counts, too"
    assert world.runs("b") == ""
    attempts = [d.attempt for d in world.store.deployments.find(device="a")]
    assert attempts == [1, 2]


def test_retries_end(world: Any) -> None:
    release = joined(world, a="x")
    world.devices["a"].behave = fail
    gate = fleet.Gate(max_failure_share=1.0)
    made = world.controller.create_rollout(release.id, replace(AT_ONCE, gate=gate))
    world.settle()
    for _ in range(4):
        world.controller.retry(made.id)
        world.settle()
    assert len(world.store.deployments.find(device="a")) == 5
    with pytest.raises(Conflict, match="was tried 5 times"):
        world.controller.retry(made.id)
    with pytest.raises(NotFound, match="'b' was not admitted"):
        world.controller.retry(made.id, ("b",))


def test_a_retry_survives_a_restart(world: Any) -> None:
    release = joined(world, a="x", b="x")
    world.devices["a"].behave = fail
    gate = fleet.Gate(max_failure_share=1.0)
    made = world.controller.create_rollout(release.id, replace(AT_ONCE, gate=gate))
    world.settle()
    world.controller.retry(made.id)
    world.settle()
    world.start()
    reports, _ = world.controller.judged(made.id)
    failures = next(report for report in reports if report.gate == "failures")
    assert (failures.samples, failures.estimate) == (2, 0.5)


def test_a_group_of_those_who_fell_silent_moves_on_and_a_rollout_keeps_its_moment(
    world: Any,
) -> None:
    for name in "ab":
        world.join(name)
    release = world.released()
    world.clock.advance(3 * 3600.0)
    world.devices["b"].report()
    grouping.create(world.controller.context, "silent", "last_seen < 2h ago")
    where = world.store.groups.get("silent").where
    found = grouping.members(world.controller.context, where)
    assert [d.name for d in found] == ["a"]
    made = world.controller.create_rollout(release.id, replace(AT_ONCE, group="silent"))
    assert "ago" not in made.where
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert [d.device for d in world.store.deployments.find(rollout=made.id)] == ["a"]
    world.clock.advance(3 * 3600.0)
    found = grouping.members(world.controller.context, where)
    assert [d.name for d in found] == ["a", "b"]
