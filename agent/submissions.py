"""What the gateway should be told and may be told later: study results and overlays.

They wait in the journal, so that no result is lost and none holds up a deployment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.desk import Desk
from agent.domain import transitions
from agent.jobs import SubmitJob, WorkerFailure
from agent.journal import Journal
from agent.runner import Finished, Runner, Running
from fitment.core import plain

DEADLINE_S: Final = 120.0
MAX_TRIES: Final = 20
"""Failed tries that are no outage; with a back-off of a minute at most."""


def keep(journal: Journal, key: str, job: SubmitJob) -> None:
    """Let a submission wait for its turn. The same key replaces an older one."""
    journal.save_submission(key, 0, json.dumps(plain.to_plain(job)))


class Submissions:
    """Hands in one submission after the other."""

    def __init__(self, runner: Runner, jitter: Callable[[], float]) -> None:
        self._runner = runner
        self._jitter = jitter
        self._job: Running | None = None
        self._key = ""
        self._not_before_s = 0.0
        self._waits = 0

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def hurry(self) -> None:
        """The controller is there again: do not wait for the back-off."""
        self._not_before_s, self._waits = 0.0, 0

    def pause(self) -> None:
        """Stop the worker; its submission waits again."""
        if self._job is not None:
            self._job.kill()
            self._job = None

    def tick(self, desk: Desk) -> bool:
        """Go on. Returns whether something changed that should be reported."""
        if self._job is not None:
            finished = self._job.poll(desk.now_s)
            return finished is not None and self._ended(desk, finished)
        waiting = desk.journal.submissions() if desk.now_s >= self._not_before_s else ()
        if waiting:
            self._key, _, text = waiting[0]
            job = plain.from_plain(SubmitJob, json.loads(text))
            job = replace(job, connection=desk.connection)  # addresses may have changed since
            deadline_s = desk.now_s + DEADLINE_S
            self._job = self._runner.start("submit", job, deadline_s=deadline_s)
        return False

    def _ended(self, desk: Desk, finished: Finished) -> bool:
        self._job = None
        if finished.failure is None:
            self._waits = 0
            self._close(desk, "")
            return True
        return self._failed(desk, finished.failure)

    def _failed(self, desk: Desk, failure: WorkerFailure) -> bool:
        rows = {key: (tries, text) for key, tries, text in desk.journal.submissions()}
        tries, text = rows.get(self._key, (MAX_TRIES, ""))
        away = failure.retry_after_s is not None or failure.code in ("unavailable", "busy")
        tries += 0 if away else 1
        if failure.permanent or tries >= MAX_TRIES:
            self._close(desk, f"its result could not be handed in: {failure.message}")
            return True
        self._waits += 1
        wait_s = transitions.backoff_s(self._waits, self._jitter())
        self._not_before_s = desk.now_s + max(wait_s, failure.retry_after_s or 0.0)
        desk.journal.save_submission(self._key, tries, text)
        return False

    def _close(self, desk: Desk, note: str) -> None:
        kind, _, study = self._key.partition("/")
        if kind == "study":
            desk.journal.save_study(study, note)
        desk.journal.drop_submission(self._key)
