"""The table of actions covers the states, and failures lead where they should."""

from __future__ import annotations

import pytest

from agent import actions
from agent.actions import ACTIONS, classify
from agent.domain.events import Event
from agent.domain.transitions import TABLE, WORKING
from agent.jobs import JOBS, WorkerFailure
from agent.testing import DEFAULTS
from fitment.core.deployment import DeploymentState as State
from tests.unit.agent.domain.orders import record


def test_every_state_has_an_action() -> None:
    assert set(ACTIONS) == set(State)


def test_whoever_starts_a_job_knows_what_to_do_with_its_result() -> None:
    without_job = {
        State.IDLE, State.WAITING, State.JUDGING, State.COMMITTING, State.ROLLING_BACK,
        State.REPORTING,
    }  # fmt: skip
    assert {state for state in State if ACTIONS[state].finished is None} == without_job


def test_the_twin_knows_every_worker_that_the_supervisor_starts() -> None:
    assert set(DEFAULTS) == set(JOBS) - {"enroll", "serve"}


@pytest.mark.parametrize(
    ("state", "code", "permanent", "refetched", "event"),
    [
        (State.FETCHING, "unavailable", False, False, Event.BUSY),
        (State.FETCHING, "busy", False, False, Event.BUSY),
        (State.FETCHING, "stalled", False, False, Event.FAILED),
        (State.FETCHING, "digest", False, False, Event.FAILED),
        (State.FETCHING, "refused", True, False, Event.PERMANENT),
        (State.VERIFYING, "digest", False, False, Event.REFETCH),
        (State.VERIFYING, "digest", False, True, Event.PERMANENT),
        (State.VERIFYING, "digest", True, False, Event.PERMANENT),
        (State.VERIFYING, "archive", False, False, Event.REFETCH),
        (State.STAGING, "archive", False, False, Event.REFETCH),
        (State.VERIFYING, "metadata_expired", False, False, Event.FAILED),
        (State.VERIFYING, "order", True, False, Event.PERMANENT),
        (State.VERIFYING, "not_for_me", True, False, Event.REJECTED),
        (State.VERIFYING, "rollback", True, False, Event.REJECTED),
        (State.STAGING, "runtime_missing", True, False, Event.REJECTED),
        (State.BENCHMARKING, "died", False, False, Event.FAILED),
    ],
)
def test_failures(state: State, code: str, permanent: bool, refetched: bool, event: Event) -> None:
    failure = WorkerFailure(code=code, message="m", permanent=permanent)
    assert classify(record(state, refetched=refetched), failure, timed_out=False) is event
    assert (state, event) in TABLE


def test_a_server_that_names_a_time_is_busy_whatever_its_code() -> None:
    failure = WorkerFailure(code="server", message="m", retry_after_s=3.0)
    assert classify(record(State.FETCHING), failure, timed_out=False) is Event.BUSY


def test_a_killed_worker_is_a_passed_deadline() -> None:
    failure = WorkerFailure(code="deadline", message="m")
    for state in WORKING:
        assert classify(record(state), failure, timed_out=True) is Event.TIMED_OUT


def test_a_trial_is_looked_at_more_than_once() -> None:
    assert actions.TRIAL_CHECK_S <= 30
