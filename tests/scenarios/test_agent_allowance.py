"""Deployments that wait for what the device may transfer: no try is burnt, and they go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent import ledger
from agent.domain.allowance import Allowance, MeteredTransfers, Metering
from agent.jobs import FetchJob, WorkerFailure
from agent.testing import fetched
from agent.transport.memory import MemoryLink
from fitment.core.deployment import DeploymentState, Outcome, StudyKind
from tests.scenarios.agent_world import WALL_UNIX, World, assignment, study

PHONE = Metering(metered=True, why="wwan0 is a modem's line")
DAY_S = 86_400.0
PATIENT = {"deadline_s": 60 * DAY_S}


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    yield found  # type: ignore[misc]
    found.kill()


def wait(world: World, deployment: str = "d-1") -> str:
    """Until it waits; why."""
    for _ in range(200):
        world.steps(1)
        report = world.reports.get(deployment)
        if report is not None and report.held:
            return report.held
    raise AssertionError(f"it does not wait: {world.chain}")


def spend(world: World, left: int) -> None:
    """Set a cap that leaves so many bytes."""
    world.link.passed.add(100_000)
    world.run(40)
    used = ledger.stored(world.folders.data_dir, Allowance(), world.clock.wall_s, 0.0)
    told = world.supervisor._ledger.spent().transferred
    assert told >= used.transferred
    world.set(allowance=Allowance(transfer_bytes_per_month=told + left))
    world.run(5)


def test_it_waits_and_goes_on_when_the_cap_is_raised(world: World) -> None:
    spend(world, left=40)
    world.wish(assignment("d-1", **PATIENT))
    why = wait(world)
    assert "this needs 64 bytes of transfers" in why
    assert why in world.reported.notes
    world.run(700)  # more than the deadline of a state
    report = world.report("d-1")
    assert (report.outcome, report.attempts, report.state) == (None, 0, DeploymentState.FETCHING)
    assert "fetch" not in world.runner.names()
    world.set(allowance=Allowance(transfer_bytes_per_month=10**9))
    ended = world.finish("d-1")
    assert (ended.outcome, ended.held) == (Outcome.COMMITTED, "")
    assert why in ended.reasons


def test_it_goes_on_when_the_month_turns(world: World) -> None:
    spend(world, left=40)
    world.wish(assignment("d-1", **PATIENT))
    wait(world)
    world.clock.wall_s = WALL_UNIX + 31 * DAY_S
    assert world.finish("d-1", limit_s=120).outcome is Outcome.COMMITTED
    used = world.reported.allowance
    assert used is not None
    assert 64 <= used.transferred_bytes < used.transfer_bytes_per_month


def test_its_deadline_holds(world: World) -> None:
    spend(world, left=40)
    world.wish(assignment("d-1", deadline_s=300.0))
    why = wait(world)
    ended = world.finish("d-1")
    assert ended.outcome is Outcome.TIMED_OUT
    assert why in ended.reasons


def test_restarts_while_it_waits_are_no_deaths(world: World) -> None:
    spend(world, left=40)
    world.wish(assignment("d-1", **PATIENT))
    wait(world)
    world.supervisor._ledger.save()
    for _ in range(5):
        world.kill()
        world.boot()
        world.run(10)
    assert wait(world)
    world.set(allowance=Allowance())
    world.wish(assignment("d-1", **PATIENT))
    assert world.finish("d-1").outcome is Outcome.COMMITTED


def test_waiting_writes_next_to_nothing(world: World) -> None:
    spend(world, left=40)
    world.wish(assignment("d-1", **PATIENT))
    wait(world)
    told, commits = world.report("d-1"), world.journal.rows("PRAGMA data_version")
    before = world.journal.rows("SELECT record FROM deployments")
    world.run(900)
    assert world.journal.rows("SELECT record FROM deployments") == before
    assert (world.report("d-1"), world.journal.rows("PRAGMA data_version")) == (told, commits)


def test_a_metered_link_is_waited_out(world: World) -> None:
    world.metering = PHONE
    world.wish(assignment("d-1", **PATIENT))
    assert "wwan0 is a modem's line" in wait(world)
    world.run(100)
    assert world.runner.names() == []
    world.metering = Metering(metered=False, why="eth0 is there again")
    assert world.finish("d-1", limit_s=120).outcome is Outcome.COMMITTED


def test_an_order_may_ask_for_a_metered_link(world: World) -> None:
    world.metering = PHONE
    world.wish(assignment("d-1", metered=True))
    assert world.finish("d-1").outcome is Outcome.COMMITTED


def test_an_operator_may_allow_metered_links(world: World) -> None:
    world.set(allowance=Allowance(metered_transfers=MeteredTransfers.ALLOW))
    world.metering = PHONE
    world.wish(assignment("d-1"))
    assert world.finish("d-1").outcome is Outcome.COMMITTED


def test_one_that_waits_lets_one_pass_that_may(world: World) -> None:
    world.metering = PHONE
    first = assignment("d-1", **PATIENT)
    other = assignment("d-2", name="v2", slot="faces", metered=True)
    world.wish(first)
    wait(world)
    world.wish(first, other)
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    world.wish(first)
    wait(world)
    world.metering = Metering(metered=False)
    assert world.finish("d-1", limit_s=120).outcome is Outcome.COMMITTED


def test_its_deadline_goes_on_while_others_pass(world: World) -> None:
    world.metering = PHONE
    first = assignment("d-1", deadline_s=300.0)
    world.wish(first)
    wait(world)
    world.run(200)
    world.wish(first, assignment("d-2", name="v2", slot="faces", metered=True))
    assert world.finish("d-2").outcome is Outcome.COMMITTED
    world.wish(first)
    wait(world)
    assert world.journal.put_backs()["d-1"] >= 200
    assert world.finish("d-1", limit_s=150).outcome is Outcome.TIMED_OUT


def test_what_only_the_worker_learns_is_waited_for_as_well(world: World) -> None:
    """A delta, or a second try after wrong bytes, may need more than is left."""
    refused = WorkerFailure(code="allowance", message="this needs too much")
    world.runner.script = {"fetch": [lambda _job: refused, fetched]}
    world.wish(assignment("d-1", **PATIENT))
    assert wait(world) == "this needs too much"
    world.run(100)
    assert world.runner.names() == ["fetch"]
    ended = world.finish("d-1")
    assert (ended.outcome, ended.attempts) == (Outcome.COMMITTED, 0)


def test_a_worker_is_given_what_is_left(world: World) -> None:
    spend(world, left=100_000)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    job = next(job for name, job in world.runner.started if name == "fetch")
    assert isinstance(job, FetchJob)
    assert job.most_bytes is not None
    assert 64 < job.most_bytes <= 100_000


def test_a_study_waits_and_is_given_up_with_the_reason(world: World) -> None:
    world.metering = PHONE
    world.wish(study("s-1", StudyKind.BENCHMARK))
    world.run(120)
    assert "modem" in " ".join(world.reported.notes)
    world.run(3600)
    assert world.reported.studies_done == ("s-1",)
    assert any("s-1" in note and "modem" in note for note in world.reported.notes)


def test_samples_thin_out_near_the_cap(world: World) -> None:
    world.run(40)
    world.wish(telemetry_interval_s=10.0)
    world.run(600)
    usual = len([u for u in world.link.received if u.telemetry is not None])
    used = world.supervisor._ledger.spent().transferred
    world.set(allowance=Allowance(transfer_bytes_per_month=int(used / 0.96)))
    world.run(600)
    after = len([u for u in world.link.received if u.telemetry is not None]) - usual
    assert 0 < after <= usual // 4
    assert world.journal.rows("SELECT count(*) FROM outbox")[0][0] <= 16


def test_what_a_link_passed_is_counted(world: World) -> None:
    world.run(40)
    assert isinstance(world.link, MemoryLink)
    assert world.supervisor._ledger.spent().transferred == world.link.passed.count > 0
    world.supervisor.close()
    kept = json.loads((world.folders.data_dir / "ledger.json").read_text())
    assert sum(kept["transfers"]["counted"].values()) == world.link.passed.count
    world.boot()
