"""A restart in every state, and a lost journal: the device still ends well and serves.

The power that goes around each single change of the disk is in `test_power_cut`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.testing import answers_wrongly, checked, hang
from fitment.core.deployment import Outcome
from tests.scenarios.agent_world import SLOT, World, assignment, bundle, fingerprint, study


@pytest.mark.parametrize(
    "state", ["fetching", "verifying", "staging", "calibrating", "benchmarking", "judging",
              "trial", "committing"],
)  # fmt: skip
def test_a_restart_in_every_state_goes_on_without_the_controller(
    state: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.until(state)
    world.kill()
    world.boot(reachable=False)
    world.run(10)
    assert world.serves() == "v1"
    world.link.connect()
    world.run(1)
    assert world.report("d-1").outcome is Outcome.COMMITTED


def test_a_variant_that_kills_its_machine_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.runner.script = {"check": [checked, hang]}
    world.wish(assignment("d-2", name="v2", counter=2))
    for _ in range(4):
        world.until("trial", "d-2")
        world.steps(3)
        world.chain.clear()
        world.kill()
        world.boot(reachable=False)
        world.runner.script = {"check": [hang]}
        world.steps(2)
        world.link.connect()
    report = world.finish("d-2")
    assert report.outcome is Outcome.ROLLED_BACK
    assert "died 4 times" in report.reasons[-1]
    assert world.serves() == "v1"


def test_stopping_in_order_counts_for_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, {"check": [checked, hang]})
    world.wish(assignment("d-1"))
    world.until("trial")
    for _ in range(10):
        world.steps(3)
        world.supervisor.close()
        world.runner.script = {"check": [hang]}
        world.boot(reachable=False)
    world.runner.script = {}
    world.link.connect()
    assert world.finish("d-1").outcome is Outcome.COMMITTED


def test_a_lost_journal_loses_no_counter_and_checks_before_it_serves(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1", counter=7))
    world.finish("d-1")
    world.kill()
    world.folders.journal.write_bytes(b"not a database at all, for certain" * 100)
    world.runner.started.clear()
    world.boot()
    world.steps(1)
    assert "begun anew" in " ".join(world.reported.notes)
    slot = world.slot()
    assert slot is not None
    assert (slot.variant, slot.counter, slot.serving) == (bundle("v1").variant, 7, False)
    world.run(5)
    slot = world.slot()
    assert slot is not None
    assert slot.serving
    assert world.runner.names() == ["check"]


def test_a_journal_lost_on_trial_leads_back_to_the_last_good(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.runner.script = {"check": [checked, hang]}
    world.wish(assignment("d-2", name="v2", counter=2))
    world.until("trial", "d-2")
    world.steps(3)
    assert world.serves() == "v2"
    world.kill()
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    world.runner.script = {}
    world.boot()
    assert world.serves() == "v1"
    assert world.journal.slot(SLOT).variant == bundle("v1").variant


def test_the_stack_changed_while_the_agent_was_off(tmp_path: Path) -> None:
    world = World(tmp_path, {"benchmark": [hang]})
    world.wish(assignment("d-1"))
    world.until("benchmarking")
    world.kill()
    world.device = fingerprint("1.21")
    world.runner.script = {}
    world.chain.clear()
    world.boot()
    report = world.finish("d-1")
    assert report.outcome is Outcome.COMMITTED
    assert world.states("d-1")[0] == "staging"
    slot = world.slot()
    assert slot is not None
    assert slot.checked_stack == world.device.stack.hash


def test_wrong_answers_after_a_restart_are_still_rolled_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wish(assignment("d-1"))
    world.finish("d-1")
    world.runner.script = {"check": [checked, hang]}
    world.wish(assignment("d-2", name="v2", counter=2))
    world.until("trial", "d-2")
    world.steps(3)
    world.kill()
    world.runner.script = {"check": [answers_wrongly]}
    world.boot()
    assert world.finish("d-2").outcome is Outcome.ROLLED_BACK
    assert world.serves() == "v1"


def test_a_study_begins_again_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, {"probe": [hang]})
    order = study("s-1")
    world.wish(order)
    world.run(5)
    world.kill()
    world.runner.script = {}
    world.boot()
    world.wish(order)
    world.run(5)
    assert world.reported.studies_done == ("s-1",)


def test_a_result_that_could_not_be_handed_in_survives_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, {"submit": [hang]})
    world.wish(study("s-1"))
    world.run(5)
    assert world.reported.studies_done == ()
    world.kill()
    world.runner.script = {}
    world.runner.started.clear()
    world.boot()
    world.wish(study("s-1"))
    world.run(5)
    assert world.runner.names() == ["submit"]
    assert world.reported.studies_done == ("s-1",)
