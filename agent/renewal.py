"""Renews the device's certificate in good time, or late: the key outlives the certificate.

A clock that stands in 1970 never says that it is time. So a line that stays down is a reason of its
own, and the answer tells what time it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.desk import Desk
from agent.domain import transitions
from agent.identity import Identity, renew_from_unix
from agent.jobs import RenewJob, RenewResult
from agent.orders import raise_floor
from agent.runner import Finished, Runner, Running

log = logging.getLogger(__name__)

LOOK_S: Final = 30.0
DEADLINE_S: Final = 120.0
_SHORTEST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 3600.0
DOWN_S: Final = 600.0
"""Of a line that stays down before the certificate is suspected, whatever the clock says."""


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
        self._down_since_s: float | None = None
        self.problem = ""

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def line(self, *, up: bool, now_s: float) -> None:
        """The line came up, or went down. One that works clears the certificate of suspicion.

        What waits after a success goes on waiting: a line that comes and goes renews nothing anew.
        """
        self._down_since_s = None if up else self._down_since_s or now_s
        if up and self._tries:
            self._tries, self._not_before_s, self.problem = 0, 0.0, ""

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
        if self._due(desk):
            job = RenewJob(
                result="",
                connection=desk.connection,
                enroll_address=self._identity.enroll,
                device=desk.device,
                keys=str(desk.folders.keys),
            )
            self._job = self._runner.start("renew", job, deadline_s=desk.now_s + DEADLINE_S)
        return False

    def _due(self, desk: Desk) -> bool:
        now_unix = max(self._wall_unix(), desk.floor_unix)
        renew_from = renew_from_unix(desk.folders, self._identity)
        if now_unix >= renew_from:
            return True
        down_s = desk.now_s - self._down_since_s if self._down_since_s is not None else 0.0
        return down_s >= DOWN_S and renew_from != float("inf")

    def _ended(self, desk: Desk, finished: Finished) -> bool:
        self._job = None
        before = self.problem
        if isinstance(finished.result, RenewResult):
            self._identity = replace(self._identity, expires_unix=finished.result.expires_unix)
            self._tries, self.problem = 0, ""
            self._rest(desk, finished.result)
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

    def _rest(self, desk: Desk, result: RenewResult) -> None:
        """Not at once again: neither by a clock that is ahead, nor by a line that stays down."""
        raise_floor(desk, result.now_unix)
        life_s = result.expires_unix - result.now_unix if result.now_unix else _LONGEST_WAIT_S
        self._not_before_s = desk.now_s + max(LOOK_S, min(_LONGEST_WAIT_S, life_s / 3))
        if self._down_since_s is not None:
            self._down_since_s = desk.now_s
