"""Asks a slot's golden inputs again after the stack below it changed.

Until the answer is there the slot does not count as serving: after an update of the operating
system a model may load and answer nonsense.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.actions import check_job
from agent.desk import Desk
from agent.domain import rungs, transitions
from agent.domain.record import SlotFacts, is_for_others
from agent.jobs import CheckResult
from agent.runner import Finished, Runner, Running

log = logging.getLogger(__name__)

DEADLINE_S: Final = 180.0
MAX_TRIES: Final = 3
_DAMAGED: Final = frozenset({"bundle_damaged", "bundle_invalid"})
"""Failures that say: the files are not what was unpacked."""


class Rechecks:
    """At most one slot at a time."""

    def __init__(self, runner: Runner, jitter: Callable[[], float]) -> None:
        self._runner = runner
        self._jitter = jitter
        self._slot = ""
        self._stack = ""
        self._job: Running | None = None
        self._tries = 0
        self._not_before_s = 0.0

    @property
    def slot(self) -> str:
        """The slot that is being checked; empty when none is."""
        return self._slot

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def start(self, desk: Desk, slot: str) -> None:
        """Check a slot on the stack of now."""
        self._slot, self._stack = slot, desk.stack
        self._tries, self._not_before_s = 0, 0.0
        log.info("action=recheck slot=%s", slot)

    def pause(self) -> None:
        """Stop the worker; it begins anew with the next `tick`."""
        if self._job is not None:
            self._job.kill()
            self._job = None

    def tick(self, desk: Desk) -> bool:
        """Go on. Returns whether something changed that should be reported."""
        if not self._slot:
            return False
        if desk.stack != self._stack:  # it changed once more: an answer would be for no stack
            self.pause()
            self.start(desk, self._slot)
        facts = desk.journal.slot(self._slot)
        if self._job is not None:
            finished = self._job.poll(desk.now_s)
            return finished is not None and self._ended(desk, facts, finished)
        if desk.now_s < self._not_before_s:
            return False
        folder = desk.slots.folder(self._slot, facts.last_good) if facts.last_good else None
        if folder is None or not folder.is_dir():
            facts = replace(facts, damaged=True)
            return self._close(desk, facts, golden_ok=False, reason="its folder is gone")
        job = check_job(desk, folder, facts.variant)
        job = replace(job, files_only=is_for_others(facts.stacks, self._stack))
        self._job = self._runner.start(
            "check", job, deadline_s=desk.now_s + DEADLINE_S, threads=desk.threads
        )
        return False

    def _ended(self, desk: Desk, facts: SlotFacts, finished: Finished) -> bool:
        self._job = None
        if isinstance(finished.result, CheckResult):
            facts = replace(facts, integer_coverage=finished.result.integer_coverage, damaged=False)
            reason = finished.result.reason
            if not finished.result.golden_ok:
                reason = f"it answers the golden inputs wrongly on this stack: {reason}"
            return self._close(desk, facts, golden_ok=finished.result.golden_ok, reason=reason)
        self._tries += 1
        message = finished.failure.message if finished.failure else "no answer"
        permanent = finished.failure is not None and finished.failure.permanent
        if finished.failure is not None and finished.failure.code in _DAMAGED:
            facts = replace(facts, damaged=True)
            permanent = True
        if permanent or self._tries >= MAX_TRIES:
            return self._close(desk, facts, golden_ok=False, reason=f"it does not run: {message}")
        self._not_before_s = desk.now_s + transitions.backoff_s(self._tries, self._jitter())
        return False

    def _close(self, desk: Desk, facts: SlotFacts, *, golden_ok: bool, reason: str) -> bool:
        facts = replace(
            facts, golden_ok=golden_ok, checked_stack=self._stack,
            reason="" if golden_ok else reason,
        )  # fmt: skip
        if golden_ok:  # right answers by other kernels than it was admitted for are not enough
            facts = replace(facts, reason=rungs.health(facts, facts.variant, self._stack)[1])
        desk.journal.save_slot(facts)
        log.info("action=rechecked slot=%s golden_ok=%s", self._slot, golden_ok)
        self._slot = ""
        return True
