"""The machine as two tables: where an event leads, and where a power loss leads.

`step` and `resume` are the only ways to a new record. Two bounds make every path end: tries in
a state are counted, and so are stored transitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent.domain.events import Event
from agent.domain.record import DeploymentRecord
from fitment.core.deployment import Assignment, Outcome, SignedPayload
from fitment.core.deployment import DeploymentState as State

MAX_ATTEMPTS: Final = 5
"""Failed tries in one state."""
MAX_TRANSITIONS: Final = 40
"""Stored transitions of one deployment; a straight way takes ten."""
MAX_RESUMES: Final = 3
"""Deaths during one deployment: a variant that kills its machine must not do so for ever."""
MAX_REASONS: Final = 32

WORKING: Final = (
    State.FETCHING,
    State.VERIFYING,
    State.STAGING,
    State.WAITING,
    State.CALIBRATING,
    State.BENCHMARKING,
    State.JUDGING,
    State.TRIAL,
)
"""States that can be given up: deadlines and the controller's word count in them."""

_ENDINGS: Final = (
    Event.PERMANENT,
    Event.EXHAUSTED,
    Event.REJECTED,
    Event.TIMED_OUT,
    Event.CANCELLED,
    Event.SUPERSEDED,
)

_FORWARD: Final[Mapping[tuple[State, Event], State]] = {
    (State.IDLE, Event.ASSIGNED): State.FETCHING,
    (State.FETCHING, Event.DONE): State.VERIFYING,
    (State.FETCHING, Event.HELD): State.FETCHING,  # for the device's allowance
    (State.FETCHING, Event.OPENED): State.FETCHING,
    (State.VERIFYING, Event.DONE): State.STAGING,
    (State.VERIFYING, Event.REFETCH): State.FETCHING,
    (State.STAGING, Event.DONE): State.CALIBRATING,
    (State.STAGING, Event.REFETCH): State.FETCHING,
    (State.STAGING, Event.HELD): State.WAITING,
    (State.WAITING, Event.OPENED): State.CALIBRATING,
    (State.WAITING, Event.DONE): State.JUDGING,  # it was measured in an earlier window
    (State.WAITING, Event.STACK_CHANGED): State.STAGING,
    (State.CALIBRATING, Event.DONE): State.BENCHMARKING,
    (State.CALIBRATING, Event.NOT_ASKED): State.BENCHMARKING,
    (State.CALIBRATING, Event.STACK_CHANGED): State.STAGING,
    (State.BENCHMARKING, Event.DONE): State.JUDGING,
    (State.BENCHMARKING, Event.STACK_CHANGED): State.STAGING,
    (State.JUDGING, Event.JUDGED_GOOD): State.TRIAL,
    (State.JUDGING, Event.JUDGED_BAD): State.ROLLING_BACK,
    (State.JUDGING, Event.HELD): State.WAITING,
    (State.JUDGING, Event.STACK_CHANGED): State.STAGING,
    (State.TRIAL, Event.DONE): State.COMMITTING,
    (State.TRIAL, Event.JUDGED_BAD): State.ROLLING_BACK,
    (State.TRIAL, Event.HELD): State.WAITING,
    (State.TRIAL, Event.STACK_CHANGED): State.TRIAL,
    (State.COMMITTING, Event.DONE): State.REPORTING,
    (State.COMMITTING, Event.FAILED): State.COMMITTING,
    (State.COMMITTING, Event.PERMANENT): State.ROLLING_BACK,
    (State.COMMITTING, Event.EXHAUSTED): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.DONE): State.REPORTING,
    (State.ROLLING_BACK, Event.FAILED): State.ROLLING_BACK,
    (State.ROLLING_BACK, Event.PERMANENT): State.REPORTING,
    (State.ROLLING_BACK, Event.EXHAUSTED): State.REPORTING,
    (State.REPORTING, Event.REPORTED): State.IDLE,
}

TABLE: Final[Mapping[tuple[State, Event], State]] = {
    **_FORWARD,
    **{(state, event): State.ROLLING_BACK for state in WORKING for event in _ENDINGS},
    **{(state, event): state for state in WORKING for event in (Event.FAILED, Event.BUSY)},
}
"""(state, event) -> state. What is not listed cannot happen."""

RESUME: Final[Mapping[State, State]] = {
    State.IDLE: State.IDLE,
    State.FETCHING: State.FETCHING,  # goes on where the part file ends
    State.VERIFYING: State.VERIFYING,
    State.STAGING: State.STAGING,  # unpacks anew; nothing serves from there
    State.WAITING: State.WAITING,  # nothing was switched; the clock is asked again
    State.CALIBRATING: State.CALIBRATING,
    State.BENCHMARKING: State.BENCHMARKING,  # half a measurement is none
    State.JUDGING: State.JUDGING,  # the measurement is in the record
    State.TRIAL: State.TRIAL,  # begins again, with the switch
    State.COMMITTING: State.COMMITTING,  # the trial was passed; writing it again changes nothing
    State.ROLLING_BACK: State.ROLLING_BACK,
    State.REPORTING: State.REPORTING,
}
"""Where a power loss leads. Each state's work can be done again from its beginning."""

_OUTCOMES: Final[Mapping[Event, Outcome]] = {
    Event.JUDGED_BAD: Outcome.ROLLED_BACK,
    Event.PERMANENT: Outcome.FAILED,
    Event.EXHAUSTED: Outcome.FAILED,
    Event.REJECTED: Outcome.REJECTED,
    Event.TIMED_OUT: Outcome.TIMED_OUT,
    Event.CANCELLED: Outcome.CANCELLED,
    Event.SUPERSEDED: Outcome.SUPERSEDED,
}


class UnexpectedEvent(Exception):
    """The table has no row for this state and event."""


def step(
    record: DeploymentRecord, event: Event, *, now_s: float, reasons: tuple[str, ...] = ()
) -> DeploymentRecord:
    """The record after ``event``. To be stored before anything is done about it.

    Raises:
        UnexpectedEvent: the table has no such row: a mistake of the caller.
    """
    if event is Event.FAILED and record.attempts + 1 >= MAX_ATTEMPTS:
        event = Event.EXHAUSTED
    target = TABLE.get((record.state, event))
    if target is None:
        raise UnexpectedEvent(f"{event.value} cannot happen in state {record.state.value}")
    record = replace(record, reasons=(record.reasons + reasons)[-MAX_REASONS:])
    if target is record.state:
        return _stay(record, event, now_s)
    return _enter(record, target, now_s=now_s, outcome=_outcome(record, event))


def refuse(
    order: SignedPayload, assignment: Assignment, *, reason: str, now_s: float
) -> DeploymentRecord:
    """A deployment that ends before it begins."""
    return DeploymentRecord(
        order=order, assignment=assignment, state=State.REPORTING, outcome=Outcome.REJECTED,
        reasons=(reason,), failed_in=State.IDLE, transitions=1, started_at_s=now_s,
        state_entered_at_s=now_s,
    )  # fmt: skip


def resume(record: DeploymentRecord, *, now_s: float) -> DeploymentRecord:
    """The record with which a new process goes on; ``spent_s`` was stored by the old one."""
    target = RESUME[record.state]
    waits = record.state is State.WAITING or record.held  # for days; nothing of it runs
    blameless = record.stopped or waits
    record = replace(
        record, started_at_s=now_s, state_entered_at_s=now_s, attempts=0, waits=0,
        resumes=record.resumes + (0 if blameless else 1), stopped=False,
    )  # fmt: skip
    if target in WORKING and record.resumes > MAX_RESUMES:
        reason = f"the agent or the machine died {record.resumes} times during it"
        tried = target is State.TRIAL
        outcome = Outcome.ROLLED_BACK if tried else Outcome.FAILED
        record = replace(record, reasons=(*record.reasons, reason))
        return _enter(record, State.ROLLING_BACK, now_s=now_s, outcome=outcome)
    return record


def overdue(record: DeploymentRecord, now_s: float) -> str | None:
    """Which deadline has passed, as a sentence, or None."""
    order = record.assignment
    if record.state not in WORKING:
        return None
    if expired(record, now_s):
        return f"the deployment's deadline of {order.deadline_s:g} s passed"
    # For a moment that the controller has named, or for what the device may transfer.
    waits = record.state is State.WAITING or bool(record.held)
    if not waits and now_s - record.state_entered_at_s > step_limit_s(record):
        return f"{record.state.value} took longer than {step_limit_s(record):g} s"
    return None


def expired(record: DeploymentRecord, now_s: float) -> bool:
    """Whether the deployment's own deadline has passed, whatever its state may still take."""
    return record.elapsed_s(now_s) > record.assignment.deadline_s


def step_limit_s(record: DeploymentRecord) -> float:
    """Seconds that the state may take; a trial's own length is not held against it."""
    trial_s = record.assignment.trial_s if record.state is State.TRIAL else 0.0
    return record.assignment.step_deadline_s + trial_s


def left_s(record: DeploymentRecord, now_s: float) -> float:
    """Seconds until the first deadline; never less than one, so that work can say why it fails."""
    whole = record.assignment.deadline_s - record.elapsed_s(now_s)
    state = step_limit_s(record) - (now_s - record.state_entered_at_s)
    return max(1.0, min(whole, state))


def backoff_s(tries: int, jitter: float, *, base_s: float = 1.0, most_s: float = 60.0) -> float:
    """Seconds before the next try: doubling, then scattered down to a half of it.

    Args:
        tries: failed ones so far, from 1.
        jitter: a random number, 0..1.
        base_s: after the first try.
        most_s: never longer than that.
    """
    full = min(most_s, base_s * 2.0 ** min(max(tries, 1) - 1, 16))
    return full * (0.5 + 0.5 * jitter)


def _stay(record: DeploymentRecord, event: Event, now_s: float) -> DeploymentRecord:
    if event is Event.FAILED:
        return replace(record, attempts=record.attempts + 1, waits=0)
    if event is Event.BUSY:
        # Waiting for the other side is not work, so the state's own deadline begins anew. The
        # deployment's goes on.
        return replace(record, waits=record.waits + 1, state_entered_at_s=now_s)
    return replace(record, state_entered_at_s=now_s)


def _enter(
    record: DeploymentRecord, target: State, *, now_s: float, outcome: Outcome | None
) -> DeploymentRecord:
    transitions = record.transitions + 1
    failed_in = record.failed_in
    refetched = target is State.FETCHING and record.state is not State.IDLE
    if transitions > MAX_TRANSITIONS and target in WORKING:
        reason = f"it went through {record.transitions} steps without an end"
        record = replace(record, reasons=(*record.reasons, reason))
        target, outcome = State.ROLLING_BACK, Outcome.FAILED
    if target is State.ROLLING_BACK:
        failed_in = record.state
    return replace(
        record, state=target, outcome=record.outcome or outcome, transitions=transitions,
        failed_in=failed_in, attempts=0, waits=0, held="", state_entered_at_s=now_s,
        refetched=record.refetched or refetched,
    )  # fmt: skip


def _outcome(record: DeploymentRecord, event: Event) -> Outcome | None:
    if record.state is State.COMMITTING and event is Event.DONE:
        return Outcome.COMMITTED
    tried = record.state in (State.TRIAL, State.COMMITTING)
    if tried and event in (Event.PERMANENT, Event.EXHAUSTED):
        return Outcome.ROLLED_BACK
    return _OUTCOMES.get(event)
