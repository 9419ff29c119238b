"""Renews the device's certificate in good time, or late: the key outlives the certificate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.desk import Desk
from agent.domain import transitions
from agent.identity import Identity, renew_from_unix
from agent.jobs import RenewJob, RenewResult
from agent.runner import Finished, Runner, Running

log = logging.getLogger(__name__)

LOOK_S: Final = 30.0
DEADLINE_S: Final = 120.0
_SHORTEST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 3600.0


class Renewal:
    """Looks now and then, and starts a worker when it is time."""

    def __init__(
        self, runner: Runner, jitter: Callable[[], float], *,
        identity: Identity, wall_unix: Callable[[], float],
    ) -> None:  # fmt: skip
        self._runner = runner
        self._jitter = jitter
        self._identity = identity
        self._wall_unix = wall_unix
        self._job: Running | None = None
        self._not_before_s = 0.0
        self._tries = 0
        self.problem = ""

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def pause(self) -> None:
        """Stop the worker; a later look starts another."""
        if self._job is not None:
            self._job.kill()
            self._job = None

    def tick(self, desk: Desk) -> bool:
        """Go on. Returns whether something changed that should be reported."""
        if self._job is not None:
            finished = self._job.poll(desk.now_s)
            return finished is not None and self._ended(desk, finished)
        if desk.now_s < self._not_before_s:
            return False
        self._not_before_s = desk.now_s + LOOK_S
        now_unix = max(self._wall_unix(), desk.floor_unix)
        if now_unix >= renew_from_unix(desk.folders, self._identity):
            job = RenewJob(
                result="",
                connection=desk.connection,
                enroll_address=self._identity.enroll,
                device=desk.device,
                keys=str(desk.folders.keys),
            )
            self._job = self._runner.start("renew", job, deadline_s=desk.now_s + DEADLINE_S)
        return False

    def _ended(self, desk: Desk, finished: Finished) -> bool:
        self._job = None
        before = self.problem
        if isinstance(finished.result, RenewResult):
            self._identity = replace(self._identity, expires_unix=finished.result.expires_unix)
            self._tries, self.problem = 0, ""
            log.info("action=renewed expires_unix=%.0f", self._identity.expires_unix)
        else:
            self._tries += 1
            message = finished.failure.message if finished.failure else "no answer"
            self.problem = f"the certificate cannot be renewed: {message}"
            wait_s = transitions.backoff_s(
                self._tries, self._jitter(), base_s=_SHORTEST_WAIT_S, most_s=_LONGEST_WAIT_S
            )
            self._not_before_s = desk.now_s + wait_s
        return self.problem != before
