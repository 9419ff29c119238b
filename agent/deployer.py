"""Drives one deployment: stores the record, then does what its state asks for.

Nothing is done before the record that says so is on disk, so a restart finds at most one step
that was begun and not noted, and every step may be done again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from agent import orders
from agent.actions import ACTIONS, classify, finish, skip_calibration
from agent.desk import Desk
from agent.domain import plan, rungs, transitions
from agent.domain.allowance import DELTA_LOOK_S
from agent.domain.events import Event
from agent.domain.record import DeploymentRecord
from agent.errors import SlotError
from agent.jobs import SPENT, WorkerFailure
from agent.journal import KEPT_KNOWN
from agent.runner import Finished, Runner, Running
from agent.steps import Again, Answer, Job, Next
from fitment.core import plain
from fitment.core.deployment import Assignment, Outcome, SignedPayload
from fitment.core.deployment import DeploymentState as State

log = logging.getLogger(__name__)

_MENDS = ".mend-"
_STALLED = "stalled"
_STACK_BOUND = (
    State.WAITING,
    State.CALIBRATING,
    State.BENCHMARKING,
    State.JUDGING,
    State.TRIAL,
)
"""States that rely on what was checked on the stack of that time."""


def _arriving(record: DeploymentRecord, why: str) -> Answer:
    """Go on from where the part file ends, as if nothing had failed before."""
    reasons = () if record.waits else (f"{record.state.value}: {why}",)
    return Answer(event=Event.BUSY, reasons=reasons, changes={"attempts": 0, "waits": 0})


class Deployer:
    """At most one deployment at a time."""

    def __init__(self, runner: Runner, jitter: Callable[[], float]) -> None:
        self._runner = runner
        self._jitter = jitter
        self._record: DeploymentRecord | None = None
        self._job: Running | None = None
        self._not_before_s = 0.0
        self._had_bytes = 0  # of its bundle, when the worker was started
        self.problem = ""  # why a deployment waits for somebody; empty: it does not

    @property
    def record(self) -> DeploymentRecord | None:
        """The active deployment."""
        return self._record

    @property
    def held(self) -> str:
        """Why its transfer waits for the device's allowance; empty: it does not."""
        return self._record.held if self._record is not None else ""

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def resume(self, desk: Desk) -> None:
        """Take up what an earlier process left."""
        stored = desk.journal.active()
        if stored is not None:
            log.info("action=resume deployment=%s state=%s", stored.id, stored.state.value)
            self._store(desk, transitions.resume(stored, now_s=desk.now_s))
            order = stored.assignment
            if order.counter < desk.journal.slot(order.slot).counter:
                self._outlived(desk)
            elif stored.checked is not None and stored.checked.stack != desk.stack:
                self.stack_changed(desk)

    def _outlived(self, desk: Desk) -> None:
        """End a deployment that is older than what the slot holds: its journal lost its end.

        The counter was compared when the order was verified, which is long ago.
        """
        reasons = ("the slot holds a newer release already",)
        if self._record is not None and self._record.state is State.COMMITTING:
            self._apply(desk, Answer(event=Event.PERMANENT, reasons=reasons))
        else:
            self.interrupt(desk, Event.SUPERSEDED, *reasons)

    def start(self, desk: Desk, order: SignedPayload, assignment: Assignment) -> None:
        """Begin a deployment; there must be none."""
        now_s = desk.now_s
        record = DeploymentRecord(
            order=order, assignment=assignment, started_at_s=now_s, state_entered_at_s=now_s,
            spent_s=desk.journal.put_backs().get(assignment.deployment, 0.0),
        )  # fmt: skip
        self._store(desk, transitions.step(record, Event.ASSIGNED, now_s=now_s))

    def mend(self, desk: Desk, slot: str) -> None:
        """Deploy once more what was committed to a slot and is damaged; there must be none.

        The order is the director's of that time, and is verified like any other. Its id is a new
        one, since the old one has ended for good.
        """
        facts = desk.journal.slot(slot)
        desk.journal.save_slot(replace(facts, damaged=False))  # one try, until it is found again
        known = desk.journal.known()
        for old in desk.journal.history(KEPT_KNOWN):
            order = old.assignment
            committed = old.outcome is Outcome.COMMITTED and order.slot == slot
            if not committed or order.bundle.variant != facts.variant:
                continue
            base = order.deployment.partition(_MENDS)[0]
            number = next(n for n in count(1) if f"{base}{_MENDS}{n}" not in known)
            log.warning("action=mend slot=%s deployment=%s", slot, order.deployment)
            record = DeploymentRecord(
                order=old.order,
                # What is damaged serves nobody, so no window is waited for.
                assignment=replace(order, deployment=f"{base}{_MENDS}{number}", windows=()),
                mends=True, rung=old.rung, stacks=old.stacks,
                started_at_s=desk.now_s, state_entered_at_s=desk.now_s,
            )  # fmt: skip
            self._store(desk, transitions.step(record, Event.ASSIGNED, now_s=desk.now_s))
            return

    def prepare(self, desk: Desk, slot: str, rung: int) -> None:
        """Begin the deployment of a lesser variant of what a slot holds; there must be none."""
        facts = desk.journal.slot(slot)
        if facts.order is None:
            return
        order = plain.from_plain(Assignment, json.loads(facts.order.payload))
        log.info("action=prepare slot=%s rung=%d", slot, rung)
        record = rungs.deployment(
            facts, facts.order, order, rung, desk.journal.known(), now_s=desk.now_s
        )
        self._store(desk, transitions.step(record, Event.ASSIGNED, now_s=desk.now_s))

    def refuse(self, desk: Desk, order: SignedPayload, assignment: Assignment, reason: str) -> None:
        """End a deployment before it begins."""
        record = transitions.refuse(order, assignment, reason=reason, now_s=desk.now_s)
        generation = int(desk.journal.setting("generation", "0"))
        desk.journal.save(replace(record, ended_generation=generation))

    def acknowledge(self, desk: Desk, deployment: str) -> None:
        """The controller knows how it ended; only its id is still of use."""
        for record in desk.journal.ended():
            if record.id == deployment:
                desk.journal.save(transitions.step(record, Event.REPORTED, now_s=desk.now_s))

    def interrupt(self, desk: Desk, event: Event, reason: str) -> None:
        """Give the active deployment up, if it still can be."""
        if self._record is not None and self._record.state in transitions.WORKING:
            self._apply(desk, Answer(event=event, reasons=(reason,)))

    def give_way(self, desk: Desk) -> None:
        """Forget a deployment that has time: it is begun anew when it is its turn.

        One waits for its window, a rung is the device's own. What it has received stays, and its
        deadline goes on from there: an order that always waits for others has an end as well.
        """
        if self._record is not None and plan.has_time(self._record):
            log.info("action=give_way deployment=%s", self._record.id)
            self.pause()
            desk.journal.put_back(self._record.id, self._record.elapsed_s(desk.now_s))
            self._record, self.problem, self._not_before_s = None, "", 0.0

    def stack_changed(self, desk: Desk) -> None:
        """Go back to where the stack began to matter."""
        if self._record is not None and self._record.state in _STACK_BOUND:
            reason = "the runtime stack changed meanwhile: checked and measured anew"
            self._apply(desk, Answer(event=Event.STACK_CHANGED, reasons=(reason,)))

    def hurry(self) -> None:
        """The controller is there again, or settings are others: look at once whether it goes on.

        The back-off of an outage is over, and what held a transfer may be.
        """
        if self._record is not None and (self._record.waits or self._record.held):
            self._not_before_s = 0.0

    def pause(self) -> None:
        """Stop the worker; the state's work begins anew with the next `tick`."""
        if self._job is not None:
            self._job.kill()
            self._job = None

    def stop(self, desk: Desk) -> None:
        """The agent was asked to stop: what goes on later did not die."""
        self.pause()
        if self._record is not None:
            spent_s = self._record.elapsed_s(desk.now_s)
            desk.journal.save(replace(self._record, stopped=True, spent_s=spent_s))

    def tick(self, desk: Desk) -> bool:
        """Go on. Returns whether something changed that should be reported."""
        record = self._record
        if record is None:
            return False
        late = transitions.overdue(record, desk.now_s)
        if late is not None:
            if self._arrives(desk, record, ends=transitions.expired(record, desk.now_s)):
                self._apply(desk, _arriving(record, late))
                return True
            self._apply(desk, Answer(event=Event.TIMED_OUT, reasons=(late,)))
            return True
        if self._job is not None:
            finished = self._job.poll(desk.now_s)
            return finished is not None and self._ended(desk, record, finished)
        if desk.now_s < self._not_before_s:
            return False
        return self._go(desk, record, lambda: ACTIONS[record.state].begin(desk, record))

    def _ended(self, desk: Desk, record: DeploymentRecord, finished: Finished) -> bool:
        self._job = None
        if finished.failure is not None:
            return self._failed(desk, record, finished.failure, timed_out=finished.timed_out)
        goes_on: Any = ACTIONS[record.state].finished
        return self._go(desk, record, lambda: goes_on(desk, record, finished.result))

    def _go(self, desk: Desk, record: DeploymentRecord, act: Callable[[], Next]) -> bool:
        try:
            following = act()
        except (SlotError, OSError) as error:
            failure = WorkerFailure(code="disk", message=str(error))
            return self._failed(desk, record, failure, timed_out=False)
        if isinstance(following, Job):
            deadline_s = desk.now_s + transitions.left_s(record, desk.now_s)
            self._had_bytes = orders.arrived_bytes(desk, record.assignment.bundle)
            self._job = self._runner.start(
                following.worker, following.job, deadline_s=deadline_s, threads=desk.threads
            )
            return False
        if isinstance(following, Again):
            self._not_before_s = desk.now_s + following.after_s
            said, self.problem = self.problem, following.problem
            return said != self.problem
        self._apply(desk, following)
        return True

    def _failed(
        self, desk: Desk, record: DeploymentRecord, failure: WorkerFailure, *, timed_out: bool
    ) -> bool:
        if failure.code == SPENT:
            changes = {"held": failure.message}
            answer = Answer(event=Event.HELD, reasons=(failure.message,), changes=changes)
            self._apply(desk, answer, retry_after_s=DELTA_LOOK_S)
            return True
        event = classify(record, failure, timed_out=timed_out)
        answer = Answer(event=event, reasons=(f"{record.state.value}: {failure.message}",))
        final = event is Event.PERMANENT or (
            event is Event.FAILED and record.attempts + 1 >= transitions.MAX_ATTEMPTS
        )
        slow = timed_out or failure.code == _STALLED
        if slow and self._arrives(desk, record, ends=False):
            answer = _arriving(record, failure.message)
        elif record.state is State.CALIBRATING and final:
            answer = skip_calibration(record, f"it failed: {failure.message}")
        elif event is Event.BUSY and record.waits:
            answer = replace(answer, reasons=())  # said when the outage began
        elif event is Event.REFETCH:
            orders.forget(desk, record.assignment.bundle)
        self._apply(desk, answer, retry_after_s=failure.retry_after_s or 0.0)
        return event is not Event.BUSY or not record.waits

    def _arrives(self, desk: Desk, record: DeploymentRecord, *, ends: bool) -> bool:
        """Whether a transfer that is slow, or stalls again and again, got further meanwhile.

        Then only the deployment's own deadline ends it: a line that is bad is still a line.
        """
        if ends or record.state is not State.FETCHING:
            return False
        return orders.arrived_bytes(desk, record.assignment.bundle) > self._had_bytes

    def _apply(self, desk: Desk, answer: Answer, *, retry_after_s: float = 0.0) -> None:
        before = self._record
        if before is None:
            return
        self.pause()
        record = replace(before, **answer.changes)
        record = transitions.step(record, answer.event, now_s=desk.now_s, reasons=answer.reasons)
        self._store(desk, record)
        tries = record.attempts or record.waits
        wait_s = transitions.backoff_s(tries, self._jitter()) if tries else 0.0
        self._not_before_s = desk.now_s + max(wait_s, retry_after_s)

    def _store(self, desk: Desk, record: DeploymentRecord) -> None:
        """Write first; what is in memory is never ahead of the disk."""
        ended = record.state is State.REPORTING
        with desk.journal.transaction():  # an end and what it counts for, or neither
            if ended:
                record = finish(desk, record)
            # Later processes count from here, whatever their clock says.
            desk.journal.save(replace(record, spent_s=record.elapsed_s(desk.now_s)))
        self._record, self.problem = None if ended else record, ""
        log.info(
            "action=deployment id=%s state=%s outcome=%s",
            record.id, record.state.value, record.outcome.value if record.outcome else "",
        )  # fmt: skip
