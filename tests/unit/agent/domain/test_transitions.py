"""Both tables cover every state, and every path ends."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from agent.domain import transitions
from agent.domain.events import Event
from agent.domain.record import DeploymentRecord
from agent.domain.transitions import (
    MAX_ATTEMPTS,
    MAX_TRANSITIONS,
    RESUME,
    TABLE,
    WORKING,
    UnexpectedEvent,
    backoff_s,
    left_s,
    overdue,
    resume,
    step,
)
from fitment.core import plain
from fitment.core.deployment import DeploymentState as State
from fitment.core.deployment import Outcome
from tests.unit.agent.domain.orders import SIGNED, assignment, record

ENDED = (State.REPORTING, State.IDLE)


def test_every_state_has_a_way_on_and_a_way_back_from_a_power_loss() -> None:
    assert set(RESUME) == set(State)
    assert {state for state, _ in TABLE} == set(State)
    assert set(TABLE.values()) == set(State)


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TABLE} == set(Event)


@pytest.mark.parametrize("state", WORKING)
@pytest.mark.parametrize(
    "event",
    [Event.PERMANENT, Event.EXHAUSTED, Event.REJECTED, Event.TIMED_OUT, Event.CANCELLED,
     Event.SUPERSEDED],
)  # fmt: skip
def test_any_work_can_be_given_up(state: State, event: Event) -> None:
    after = step(record(state), event, now_s=1.0)
    assert after.state is State.ROLLING_BACK
    assert after.outcome is not None
    assert after.failed_in is state


def test_what_is_not_in_the_table_is_a_mistake() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) not in TABLE:
            with pytest.raises(UnexpectedEvent):
                step(record(state), event, now_s=0.0)


def test_without_the_counted_ways_back_the_table_has_no_circle() -> None:
    counted = (Event.REFETCH, Event.STACK_CHANGED, Event.HELD)
    edges: dict[State, set[State]] = {state: set() for state in State}
    for (state, event), target in TABLE.items():
        if event not in counted and target is not state and event is not Event.REPORTED:
            edges[state].add(target)

    def reaches(state: State, seen: tuple[State, ...]) -> None:
        assert state not in seen, f"a circle: {seen} {state}"
        for following in edges[state]:
            reaches(following, (*seen, state))

    reaches(State.IDLE, ())


@pytest.mark.parametrize("seed", range(200))
def test_every_random_path_ends(seed: int) -> None:
    choose = random.Random(seed)
    walker, now_s, resumes = record(), 0.0, 0
    walker = step(walker, Event.ASSIGNED, now_s=now_s)
    for _ in range(MAX_TRANSITIONS * MAX_ATTEMPTS + 100):
        if walker.state is State.REPORTING:
            break
        events = [e for s, e in TABLE if s is walker.state and e is not Event.BUSY]
        # Waiting for the other side burns no attempt: that one ends by the deadline.
        walker = step(walker, choose.choice(events), now_s=now_s)
        now_s += 1.0
        if choose.random() < 0.05:
            walker, resumes = resume(walker, now_s=now_s), resumes + 1
    assert walker.state is State.REPORTING
    assert walker.outcome is not None
    assert walker.transitions <= MAX_TRANSITIONS + 3


def test_waiting_ends_by_the_deadline() -> None:
    walker = step(record(), Event.ASSIGNED, now_s=0.0)
    now_s = 0.0
    while overdue(walker, now_s) is None:
        walker = step(walker, Event.BUSY, now_s=now_s)
        now_s += 60.0
    assert now_s <= walker.assignment.deadline_s + 60.0
    assert walker.attempts == 0


def test_waiting_for_a_window_ends_by_the_deployments_deadline_and_no_other() -> None:
    walker = step(record(State.STAGING), Event.HELD, now_s=0.0)
    assert overdue(walker, walker.assignment.step_deadline_s * 2) is None
    assert "deadline" in (overdue(walker, walker.assignment.deadline_s + 1.0) or "")


def test_power_cuts_while_it_waits_are_not_held_against_it() -> None:
    walker = step(record(State.STAGING), Event.HELD, now_s=0.0)
    for _ in range(20):
        walker = resume(walker, now_s=0.0)
    assert (walker.state, walker.resumes) == (State.WAITING, 0)


def test_tries_are_counted_for_each_state() -> None:
    walker = step(record(), Event.ASSIGNED, now_s=0.0)
    for _ in range(MAX_ATTEMPTS - 1):
        walker = step(walker, Event.FAILED, now_s=0.0)
    assert walker.state is State.FETCHING
    walker = step(walker, Event.DONE, now_s=0.0)
    assert (walker.state, walker.attempts) == (State.VERIFYING, 0)
    for _ in range(MAX_ATTEMPTS):
        walker = step(walker, Event.FAILED, now_s=0.0)
    assert (walker.state, walker.outcome) == (State.ROLLING_BACK, Outcome.FAILED)


def test_a_stack_that_changes_for_ever_ends_too() -> None:
    walker = record(State.STAGING)
    for _ in range(MAX_TRANSITIONS + 5):
        if walker.state is State.ROLLING_BACK:
            break
        event = Event.DONE if walker.state is State.STAGING else Event.STACK_CHANGED
        walker = step(walker, event, now_s=0.0)
    assert walker.state is State.ROLLING_BACK
    assert walker.outcome is Outcome.FAILED
    assert "without an end" in walker.reasons[-1]


@pytest.mark.parametrize(
    ("state", "event", "outcome"),
    [
        (State.FETCHING, Event.PERMANENT, Outcome.FAILED),
        (State.TRIAL, Event.PERMANENT, Outcome.ROLLED_BACK),
        (State.TRIAL, Event.EXHAUSTED, Outcome.ROLLED_BACK),
        (State.COMMITTING, Event.EXHAUSTED, Outcome.ROLLED_BACK),
        (State.JUDGING, Event.JUDGED_BAD, Outcome.ROLLED_BACK),
        (State.VERIFYING, Event.REJECTED, Outcome.REJECTED),
        (State.COMMITTING, Event.DONE, Outcome.COMMITTED),
    ],
)
def test_outcomes(state: State, event: Event, outcome: Outcome) -> None:
    assert step(record(state), event, now_s=0.0).outcome is outcome


def test_the_outcome_is_told_only_when_it_stands() -> None:
    back = step(record(State.TRIAL), Event.JUDGED_BAD, now_s=0.0)
    assert back.report().outcome is None
    assert step(back, Event.DONE, now_s=0.0).report().outcome is Outcome.ROLLED_BACK


def test_the_first_outcome_stands() -> None:
    back = step(record(State.TRIAL), Event.CANCELLED, now_s=0.0)
    assert step(back, Event.EXHAUSTED, now_s=0.0).outcome is Outcome.CANCELLED


def test_resuming_counts_and_ends() -> None:
    walker = record(State.TRIAL, attempts=3, spent_s=10.0)
    for _ in range(transitions.MAX_RESUMES):
        walker = resume(walker, now_s=100.0)
        assert (walker.state, walker.attempts) == (State.TRIAL, 0)
    assert walker.elapsed_s(105.0) == pytest.approx(15.0)
    walker = resume(walker, now_s=200.0)
    assert (walker.state, walker.outcome) == (State.ROLLING_BACK, Outcome.ROLLED_BACK)
    assert resume(record(State.REPORTING, resumes=9), now_s=0.0).state is State.REPORTING


def test_deadlines() -> None:
    order = assignment(deadline_s=100.0, step_deadline_s=30.0, trial_s=50.0)
    walker = record(State.FETCHING, assignment=order, started_at_s=0.0, state_entered_at_s=0.0)
    assert overdue(walker, 30.0) is None
    assert "fetching took longer" in (overdue(walker, 31.0) or "")
    assert left_s(walker, 10.0) == 20.0
    assert left_s(walker, 99.0) == 1.0
    trial = record(State.TRIAL, assignment=order, state_entered_at_s=0.0)
    assert overdue(trial, 79.0) is None
    late = record(State.TRIAL, assignment=order, state_entered_at_s=0.0, spent_s=90.0)
    assert "deployment's deadline" in (overdue(late, 11.0) or "")
    for state in (State.COMMITTING, State.ROLLING_BACK, *ENDED):
        assert overdue(record(state, assignment=order), 1e9) is None


@pytest.mark.parametrize(
    ("tries", "jitter", "seconds"),
    [(0, 1.0, 1.0), (1, 1.0, 1.0), (2, 1.0, 2.0), (5, 0.0, 8.0), (9, 1.0, 60.0), (999, 0.0, 30.0)],
)
def test_backoff(tries: int, jitter: float, seconds: float) -> None:
    assert backoff_s(tries, jitter) == seconds


def test_reasons_are_bounded() -> None:
    walker = record(State.FETCHING)
    for number in range(100):
        walker = step(walker, Event.BUSY, now_s=0.0, reasons=(str(number),))
    assert len(walker.reasons) == transitions.MAX_REASONS
    assert walker.reasons[-1] == "99"


def test_a_record_is_the_same_after_the_journal() -> None:
    walker = step(record(State.JUDGING), Event.JUDGED_BAD, now_s=3.0, reasons=("slow",))
    text = json.dumps(plain.to_plain(walker))
    assert plain.from_plain(DeploymentRecord, json.loads(text)) == walker


def test_a_refused_deployment_has_ended() -> None:
    refused = transitions.refuse(SIGNED, assignment(), reason="no", now_s=1.0)
    assert (refused.state, refused.report().outcome) == (State.REPORTING, Outcome.REJECTED)
