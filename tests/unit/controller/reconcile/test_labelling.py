"""Labels from the field: kept once, counted by release, and heeded by rollouts however late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.domain import field, fleet, labels
from controller.domain.fleet import RolloutState
from controller.errors import NotFound, UserError
from controller.reconcile import keeping, labelling
from controller.reconcile.rolling import RolloutPlan
from controller.store.sql import PAGES_KNOWN
from tests.unit.controller.reconcile.test_rolling import joined, second_release

GATE = fleet.Gate(latency_ratio_max=None, field_drop_max=0.05, must_pass=True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'labels.sqlite'}"


def served(world: Any, names: str = "ab", **plan: Any) -> fleet.Rollout:
    """A first release everywhere, and a second one after it that is held to labels."""
    first = joined(world, names)
    made = world.controller.create_rollout(first.id, RolloutPlan(waves=(1.0,)))
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    world.clock.advance(4000.0)
    for name in names:
        world.controller.post_labels(name, answers(world, 200, wrong=20))
    world.clock.advance(4000.0)
    later = second_release(world, "fp32")
    asked = RolloutPlan(**{"waves": (1.0,), "gate": GATE, **plan})
    return world.controller.create_rollout(later.id, asked)  # type: ignore[no-any-return]


def answers(world: Any, count: int, *, wrong: int, **more: Any) -> list[dict[str, Any]]:
    now = world.clock()
    return [
        {"id": f"{now}-{n}", "time": now, "label": 1, "predicted": 2 if n < wrong else 1, **more}
        for n in range(count)
    ]


def test_labels_are_kept_once_and_a_correction_takes_its_formers_place(world: Any) -> None:
    served(world)
    lines = answers(world, 10, wrong=2, slice="night")
    assert world.controller.post_labels("a", lines).taken == 10
    again = world.controller.post_labels("a", [*lines[:9], {**lines[9], "label": 2}])
    assert (again.taken, again.changed, again.known) == (0, 1, 9)
    found = field.summed(world.store.tallies.find(device="a"))
    counts = {part: (counted.count, counted.right) for part, counted in found.items()}
    assert counts == {"": (210, 187), "night": (10, 7)}


def test_a_line_finds_its_release_by_its_time_or_by_what_it_says(world: Any) -> None:
    made = served(world)
    before = world.clock() - 10.0
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    old, new = (d for d in world.store.deployments.find(device="a"))
    for line, release in (
        ({"time": before}, old.release), ({"time": world.clock()}, new.release),
        ({"time": before, "release": new.release}, new.release),
        ({"time": world.clock(), "variant": old.variant}, old.release),
        ({"time": world.clock(), "variant": old.variant.split(":")[1][:12]}, old.release),
    ):  # fmt: skip
        had = {t.key: t.count for t in world.store.tallies.find(release=release, device="a")}
        world.controller.post_labels("a", [{**line, "correct": True, "id": str(line)}])
        now = {t.key: t.count for t in world.store.tallies.find(release=release, device="a")}
        assert sum(now.values()) == sum(had.values()) + 1, line


def test_a_bad_line_takes_none_of_its_company_in(world: Any) -> None:
    served(world)
    before = world.store.tallies.find()
    good = {"time": world.clock(), "correct": True}
    for bad, words in (
        ({"time": "soon", "correct": True}, "label 2: 'time'"),
        ({**good, "release": "other"}, "never committed other"),
        ({**good, "device": "b"}, "is of 'b'"),
    ):
        with pytest.raises(UserError, match=words):
            world.controller.post_labels("a", [good, bad])
    with pytest.raises(UserError, match="at most 2000"):
        world.controller.post_labels("a", [good] * 2001)
    with pytest.raises(NotFound, match="no device is named 'z'"):
        world.controller.post_labels("z", [good])
    assert world.store.tallies.find() == before


def test_a_rollout_that_runs_is_halted_by_labels(world: Any) -> None:
    made = served(world, soak_s=500.0)
    world.settle()
    assert world.rollout(made.id).state is RolloutState.RUNNING
    world.controller.post_labels("a", answers(world, 200, wrong=120))
    world.until(lambda: world.rollout(made.id).state is RolloutState.HALTED)
    assert "field accuracy drop" in world.rollout(made.id).reasons[-1]


def test_labels_that_come_when_all_is_over_are_told_once(world: Any) -> None:
    made = served(world)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    fine = world.controller.post_labels("a", answers(world, 100, wrong=10))
    assert fine.fell == ()
    world.clock.advance(86400.0)
    lines = answers(world, 100, wrong=90, must_pass=True)
    assert world.controller.post_labels("b", lines).fell == (made.id,)
    assert world.controller.post_labels("b", answers(world, 1, wrong=1)).fell == ()
    assert world.actions().count(labelling.FELL) == 1
    assert "came late" in world.rollout(made.id).reasons[-1]


def test_new_old_and_control_stand_beside_each_other(world: Any) -> None:
    made = served(world, "abcd", control_share=0.25, control_s=9e5)
    world.settle()
    (held,) = world.controller.control_of(made)
    (name, *_) = sorted(set("abcd") - {held})
    world.clock.advance(3700.0)
    world.controller.post_labels(name, answers(world, 100, wrong=5))
    world.controller.post_labels(held, answers(world, 100, wrong=10))
    rows = {row.group: row for row in world.controller.field_of(world.rollout(made.id))}
    counts = {group: (row.counted.count, row.counted.right) for group, row in rows.items()}
    assert counts == {
        "new": (100, 95), "old": (200, 180),
        "control before": (200, 180), "control since": (100, 90),
    }  # fmt: skip
    assert rows["new"].low < 0.95 < rows["new"].high


def test_labels_of_another_slot_are_no_baseline(world: Any) -> None:
    made = served(world)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    (tally,) = world.store.tallies.find(device="a")
    release = world.store.releases.find()[0]
    other = replace(release, id="other", slot="another", counter=1)
    world.store.releases.add(other)
    later = tally.start_s + 3600
    world.store.tallies.put(
        replace(tally, key=f"a/{later}/other/", release="other", start_s=later, count=500, right=0)
    )
    world.clock.advance(4000.0)
    world.controller.post_labels("a", answers(world, 100, wrong=10))
    rows = {row.group: row for row in labelling.compared(world.store, world.rollout(made.id))}
    assert (rows["old"].counted.count, rows["new"].counted.count) == (200, 100)


def test_how_late_labels_may_be_is_counted_from_the_rollouts_end(world: Any) -> None:
    made = served(world, names="a")
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    (its,) = world.store.deployments.find(rollout=made.id)
    world.store.deployments.put(replace(its, ended_at=its.ended_at + labelling.LATE_S))
    world.clock.advance(labelling.LATE_S + 4000.0)
    lines = answers(world, 100, wrong=90)
    assert world.controller.post_labels("a", lines).fell == (made.id,)


def test_labels_of_a_reused_name_are_of_the_new_device(world: Any) -> None:
    made = served(world, names="a")
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    world.clock.advance(10.0)
    world.store.devices.put(replace(world.store.devices.get("a"), renamed_at=world.clock()))
    with pytest.raises(UserError, match="never committed anything"):
        world.controller.post_labels("a", answers(world, 1, wrong=0))


def test_labels_are_forgotten_when_they_are_as_old_as_daily_rollups(world: Any) -> None:
    served(world, names="a")
    keep_s = world.controller.context.settings.retention.day.age_s
    world.clock.advance(keep_s - 9000.0)
    world.controller.post_labels("a", answers(world, 10, wrong=1))
    world.clock.advance(keeping.ROUND_S)
    world.turn()
    assert len(world.store.pages.find()) == 2
    world.clock.advance(9000.0)
    world.turn()
    (page,), (tally,) = world.store.pages.find(), world.store.tallies.find()
    assert len(page.lines) == tally.count == 10
    assert page.key == f"a/{tally.start_s}"


def test_few_pages_are_kept_in_memory(world: Any) -> None:
    joined(world, "a")
    for hour in range(PAGES_KNOWN + 4):
        world.store.pages.put(labels.page_of("a", 3600.0 * hour))
    assert len(world.store.pages._known) <= PAGES_KNOWN
    assert len(world.store.pages.find()) == PAGES_KNOWN + 4


def test_a_time_before_a_device_had_the_release_is_refused(world: Any) -> None:
    """It would take all that came between from what the release is compared with."""
    made = served(world)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    (_, new) = world.store.deployments.find(device="a")
    line = {"time": new.created_at - 3000.0, "release": new.release, "correct": True}
    before = field.parted(made, world.store.tallies.find(device="a"))
    with pytest.raises(UserError, match="is before the device was given release"):
        world.controller.post_labels("a", [line])
    assert field.parted(made, world.store.tallies.find(device="a")) == before
    assert world.controller.post_labels("a", [{**line, "time": new.created_at}]).taken == 1


def test_labels_that_come_late_have_the_cohort_fitted_again_without_the_variant(
    world: Any,
) -> None:
    made = served(world)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    assert {world.runs(name) for name in "ab"} == {"fp32"}
    world.clock.advance(86400.0)
    world.controller.post_labels("b", answers(world, 100, wrong=90, must_pass=True))
    (trigger,) = world.store.triggers.find()
    assert trigger.kind is fleet.TriggerKind.FIELD_FELL
    assert set(trigger.joined) == {"a", "b"}
    assert trigger.reason.startswith("labels from the field:")
    world.until(lambda: world.store.triggers.get(trigger.id).closed_at > 0)
    assert {world.runs(name) for name in "ab"} == {"int8"}
    chosen = world.job(world.store.triggers.get(trigger.id).job).choice
    assert "labels from the field speak against it" in " ".join(chosen.rejected.values())
    world.settle()
    assert len(world.store.triggers.find()) == 1, "it is asked once"


def test_labels_against_another_version_are_for_an_operator(world: Any) -> None:
    made = served(world)
    world.until(lambda: world.rollout(made.id).state is RolloutState.COMPLETED)
    (old, _) = world.store.releases.find()
    world.store.releases.put(replace(old, model="the one before"))
    world.clock.advance(86400.0)
    fell = world.controller.post_labels("b", answers(world, 100, wrong=90, must_pass=True)).fell
    assert fell == (made.id,)
    assert world.store.triggers.find() == ()
