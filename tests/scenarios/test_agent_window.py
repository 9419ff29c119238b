"""Maintenance windows on the device: staged before, switched inside, whatever comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.jobs import BenchmarkJob, BenchmarkResult
from agent.testing import benchmarked
from fitment.core.deployment import Assignment, Lesser, Outcome, Pressure, Span, StudyKind
from fitment.core.telemetry import CommandKind
from tests.scenarios.agent_world import (
    SLOT,
    WALL_UNIX,
    World,
    assignment,
    bundle,
    fingerprint,
    study,
)

BEFORE = ("fetching", "verifying", "staging", "waiting")
INSIDE = ("calibrating", "benchmarking", "judging", "trial", "committing", "reporting")
HOUR = 3600.0


def spans(*hours: tuple[float, float]) -> tuple[Span, ...]:
    """Windows, in hours after the device was begun with."""
    start = int(WALL_UNIX)
    return tuple(
        Span(opens_unix=start + int(a * HOUR), closes_unix=start + int(b * HOUR)) for a, b in hours
    )


def night(*hours: tuple[float, float], deployment: str = "d-2", **changes: object) -> Assignment:
    return assignment(
        deployment, name="v2", counter=2, deadline_s=8 * 86_400.0,
        windows=spans(*(hours or ((5.0, 6.0),))), **changes,
    )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.wish(assignment("d-1"))
    assert made.finish("d-1").outcome is Outcome.COMMITTED
    made.wish()
    made.clock.advance(200.0)  # past the timestamp that the twin of the verify worker trusts
    return made


def wait(world: World, order: Assignment) -> None:
    world.wish(order)
    world.until("waiting", order.deployment)
    world.steps(50)
    assert world.states(order.deployment) == list(BEFORE)
    assert world.serves() == "v1"


def at(world: World, hour: float) -> None:
    """Let hours pass: what would be done in them is seen at once, since all looks are alike."""
    world.steps(20)
    world.clock.advance(max(0.0, WALL_UNIX + hour * HOUR - world.clock.wall_s - 40.0))
    world.run(80.0)


def idle(world: World, hours: float) -> None:
    """The same with its own looks, an hour apart."""
    for _ in range(int(hours)):
        world.steps(5)
        world.clock.advance(HOUR)
    world.steps(5)


def test_it_is_fetched_and_staged_before_and_switched_inside(world: World) -> None:
    wait(world, night())
    assert "next window opens at 2027-01-15 13:00 UTC" in world.report("d-2").reasons[-1]
    benchmarks = world.runner.names().count("benchmark")
    at(world, 4.98)
    assert world.serves() == "v1"
    assert world.runner.names().count("benchmark") == benchmarks, "measuring waits, too"
    assert world.finish("d-2", limit_s=HOUR).outcome is Outcome.COMMITTED
    assert world.serves() == "v2"
    assert tuple(world.states("d-2")) == BEFORE + INSIDE
    assert 5.0 <= (world.clock.wall_s - WALL_UNIX) / HOUR < 5.1


def test_one_that_comes_inside_does_not_wait(world: World) -> None:
    at(world, 5.2)
    world.wish(night())
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    assert "waiting" not in world.states("d-2")


def test_a_window_that_passed_leads_to_the_next(world: World) -> None:
    order = night((5.0, 6.0), (29.0, 30.0))
    wait(world, order)
    world.kill()
    world.clock.advance(10 * HOUR)  # switched off all through the first one
    world.boot(reachable=False)
    at(world, 28.9)
    assert world.serves() == "v1"
    at(world, 29.1)
    assert world.serves() == "v2"


def test_too_little_of_a_window_is_none(world: World) -> None:
    wait(world, night((5.0, 6.0), (29.0, 30.0), trial_s=1800.0))
    world.kill()
    world.clock.advance(5.6 * HOUR)
    world.boot()
    world.run(60.0)
    assert (world.serves(), world.states("d-2")[-1]) == ("v1", "waiting")


@pytest.mark.parametrize("cuts", [1, 9])
def test_power_cuts_and_outages_while_it_waits(world: World, cuts: int) -> None:
    wait(world, night())
    for _ in range(cuts):
        world.kill()
        world.boot(reachable=False)  # nobody repeats the order
        world.steps(20)
        assert world.serves() == "v1"
    at(world, 5.1)
    assert world.serves() == "v2"
    assert world.slots.read_facts("digits").counter == 2


def test_a_clock_behind_the_trusted_time_holds_and_says_so(world: World) -> None:
    wait(world, night())
    world.kill()
    world.clock.wall_s = 86_400.0  # 1970, as after a shelf
    world.boot()
    idle(world, 12)
    assert world.serves() == "v1"
    assert any("before the latest trusted time" in note for note in world.reported.notes)
    world.clock.wall_s = WALL_UNIX + 5.1 * HOUR  # set at last
    world.run(60.0)
    assert world.serves() == "v2"
    assert not any("trusted time" in note for note in world.reported.notes)


def test_a_clock_that_runs_ahead_of_every_window_holds(world: World) -> None:
    wait(world, night())
    world.clock.wall_s = WALL_UNIX + 1000 * HOUR
    world.run(60.0)
    assert (world.serves(), world.states("d-2")[-1]) == ("v1", "waiting")
    world.clock.wall_s = WALL_UNIX + 5.1 * HOUR
    world.run(60.0)
    assert world.serves() == "v2"


def test_a_window_that_never_comes_ends_by_the_deadline(world: World) -> None:
    wait(world, night((900.0, 901.0)))
    idle(world, 8 * 24 + 1)
    report = world.finish("d-2")
    assert (report.outcome, world.serves()) == (Outcome.TIMED_OUT, "v1")
    assert world.journal.quarantine() == {}, "the variant is not to blame"


def test_cancelled_while_it_waits(world: World) -> None:
    wait(world, night())
    world.command(CommandKind.CANCEL, "d-2")
    assert world.finish("d-2").outcome is Outcome.CANCELLED
    at(world, 5.5)
    assert world.serves() == "v1"


def test_superseded_while_it_waits(world: World) -> None:
    wait(world, night())
    world.wish(assignment("d-3", name="v3", counter=3))
    assert world.finish("d-3").outcome is Outcome.COMMITTED
    assert world.report("d-2").outcome is Outcome.SUPERSEDED
    at(world, 5.5)
    assert world.serves() == "v3"


def test_the_stack_changes_while_it_waits(world: World) -> None:
    wait(world, night())
    world.device = fingerprint("1.21")
    world.run(60.0)
    assert world.states("d-2") == [*BEFORE, "staging", "waiting"]
    at(world, 5.1)
    assert world.serves() == "v2"


def test_a_trial_that_the_power_ends_does_not_outlast_its_window(world: World) -> None:
    order = night((5.0, 6.0), (29.0, 30.0), trial_s=600.0)
    wait(world, order)
    at(world, 5.0)
    world.until("trial", "d-2")
    world.steps(3)
    assert world.serves() == "v2"
    world.kill()
    world.clock.advance(4 * HOUR)
    world.boot(reachable=False)
    world.steps(20)
    assert world.serves() == "v1", "outside a window nothing serves but what was committed"
    at(world, 29.5)
    world.run(700.0)
    assert world.serves() == "v2"
    assert world.slots.read_facts("digits").counter == 2


def test_a_window_that_closes_over_a_measurement_is_not_exceeded(world: World) -> None:
    wait(world, night((5.0, 6.0), (29.0, 30.0), step_deadline_s=9 * HOUR))

    def slow(job: BenchmarkJob) -> BenchmarkResult:
        world.clock.advance(2 * HOUR)
        return benchmarked(job)

    world.runner.script["benchmark"] = [slow]
    at(world, 5.0)
    world.run(60.0)
    assert world.states("d-2")[-1] == "waiting"
    assert world.serves() == "v1"
    at(world, 29.1)
    assert world.serves() == "v2"
    assert world.states("d-2").count("benchmarking") == 1, "the measurement still holds"


def test_what_is_due_at_any_time_goes_first(world: World) -> None:
    order = night()
    wait(world, order)
    other = assignment("d-9", name="v3", slot="other", counter=1)
    world.wish(order, other)
    assert world.finish("d-9").outcome is Outcome.COMMITTED
    world.wish(order)
    world.run(60.0)
    assert world.states("d-2")[-1] == "waiting"
    at(world, 5.1)
    assert world.serves() == "v2"


def test_studies_are_answered_while_it_waits(world: World) -> None:
    order = night()
    wait(world, order)
    world.wish(order, study("s-1", StudyKind.PROBE))
    world.run(60.0)
    assert "s-1" in world.reported.studies_done
    assert world.states("d-2")[-1] == "waiting"


def test_damage_is_mended_while_another_release_waits(world: World) -> None:
    order = night()
    wait(world, order)
    world.journal.save_slot(replace(world.journal.slot(SLOT), damaged=True))
    world.wish(order)
    world.run(120.0)
    assert world.report("d-1.mend-1").outcome is Outcome.COMMITTED
    assert world.states("d-2")[-1] == "waiting"
    at(world, 5.1)
    assert world.serves() == "v2"


def test_a_lesser_variant_is_made_ready_at_any_time_and_the_chosen_one_in_the_window(
    world: World,
) -> None:
    rung = (Lesser(bundle=bundle("v3"), relieves=(Pressure.HEAT,)),)
    order = night((5.0, 6.0), ladder=rung)
    wait(world, order)
    at(world, 5.1)
    assert world.serves() == "v2"
    world.wish()
    at(world, 7.0)  # the window is over; the rung only stands ready
    slot = world.slot()
    assert slot is not None
    assert [(r.name, r.ready) for r in slot.ladder] == [("v3", True)]
    assert slot.rung == 0
