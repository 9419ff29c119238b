"""Runs one study: receive, verify, unpack, time; the result then waits in the journal.

A study changes nothing on the device, so its progress is not stored: after a restart it begins
again, with what was received.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import Any, Final

from agent import durable, orders
from agent.desk import Desk
from agent.domain import transitions
from agent.jobs import BenchmarkJob, ProbeJob, SubmitJob, VerifyResult, WorkerFailure
from agent.runner import Finished, Runner, Running
from agent.submissions import keep
from fitment.core.deployment import SignedPayload, Study, StudyKind

log = logging.getLogger(__name__)

STEP_DEADLINE_S: Final = 600.0
DEADLINE_S: Final = 3600.0


class Stage(enum.Enum):
    """How far a study has come."""

    FETCH = "fetch"  # receiving the bundle
    VERIFY = "verify"  # signatures and digests
    STAGE = "stage"  # unpacking
    RUN = "run"  # timing


_NEXT: Final = {Stage.FETCH: Stage.VERIFY, Stage.VERIFY: Stage.STAGE, Stage.STAGE: Stage.RUN}


class Studies:
    """At most one study at a time."""

    def __init__(self, runner: Runner, jitter: Callable[[], float]) -> None:
        self._runner = runner
        self._jitter = jitter
        self._order: SignedPayload | None = None
        self._study: Study | None = None
        self._stage = Stage.FETCH
        self._job: Running | None = None
        self._tries = 0
        self._waits = 0
        self._refetched = False
        self._not_before_s = 0.0
        self._deadline_s = 0.0
        self.held = ""  # why its transfer waits for the device's allowance; empty: it does not

    @property
    def study(self) -> Study | None:
        """The study in progress."""
        return self._study

    @property
    def running(self) -> bool:
        """Whether a worker is at it."""
        return self._job is not None

    def start(self, desk: Desk, order: SignedPayload, study: Study) -> None:
        """Begin a study; there must be none."""
        self._order, self._study = order, study
        self._refetched = False
        self._deadline_s = desk.now_s + DEADLINE_S
        self._enter(Stage.FETCH)
        log.info("action=study id=%s kind=%s", study.id, study.kind.value)

    def drop(self, desk: Desk) -> None:
        """Give it up without a result."""
        self.pause()
        if self._study is not None:
            durable.remove(desk.folders.archive(self._study.bundle))
            durable.remove_written(desk.folders.lied(self._study.bundle))
            durable.remove_tree(desk.folders.study(self._study.id))
        self._order = self._study = None
        self.held = ""

    def hurry(self) -> None:
        """The controller is there again, or an allowance is another: look at once."""
        if self._waits or self.held:
            self._not_before_s = 0.0

    def pause(self) -> None:
        """Stop the worker; its step begins anew with the next `tick`."""
        if self._job is not None:
            self._job.kill()
            self._job = None

    def tick(self, desk: Desk) -> bool:
        """Go on. Returns whether something changed that should be reported."""
        study = self._study
        if study is None:
            return False
        if desk.now_s > self._deadline_s:
            why = f": {self.held}" if self.held else ""
            return self._give_up(desk, f"it took longer than {DEADLINE_S:g} s{why}")
        if self._job is not None:
            finished = self._job.poll(desk.now_s)
            return finished is not None and self._ended(desk, study, finished)
        if desk.now_s >= self._not_before_s:
            if self._stage is Stage.FETCH and self._waits_for_room(desk, study):
                return True
            worker, job = self._make_job(desk, study)
            self._job = self._runner.start(
                worker, job, deadline_s=desk.now_s + STEP_DEADLINE_S, threads=desk.threads
            )
        return False

    def _waits_for_room(self, desk: Desk, study: Study) -> bool:
        """Whether the device's allowance has none for its bundle; no operator asks for a study."""
        hold = orders.held(desk, study.bundle)
        self.held = hold.reason if hold is not None else ""
        self._not_before_s = desk.now_s + (hold.after_s if hold is not None else 0.0)
        return hold is not None

    def _make_job(self, desk: Desk, study: Study) -> tuple[str, Any]:
        folder = desk.folders.study(study.id)
        if self._stage is Stage.FETCH:
            return "fetch", orders.fetch(desk, study.bundle)
        if self._stage is Stage.VERIFY:
            assert self._order is not None  # set together with the study
            return "verify", orders.verify(desk, self._order, study.bundle, kind="study")
        if self._stage is Stage.STAGE:
            durable.make_folder(folder.parent, mode=0o700)
            return "stage", orders.stage(desk, study.bundle, folder)
        common: dict[str, Any] = {
            "result": "", "folder": str(folder), "plan": study.benchmark,
            "setting": desk.setting, "limits": desk.limits,
        }  # fmt: skip
        if study.kind is StudyKind.PROBE:
            return "probe", ProbeJob(**common)
        return "benchmark", BenchmarkJob(id=study.id, **common)

    def _ended(self, desk: Desk, study: Study, finished: Finished) -> bool:
        self._job = None
        if finished.failure is not None:
            return self._failed(desk, study, finished.failure, timed_out=finished.timed_out)
        if isinstance(finished.result, VerifyResult):
            orders.raise_floor(desk, finished.result.timestamp_unix)
        if self._stage is not Stage.RUN:
            self._enter(_NEXT[self._stage])
            return False
        probe = study.kind is StudyKind.PROBE
        job = SubmitJob(
            result="",
            connection=desk.connection,
            study=study.id,
            kernels=finished.result.table if probe else None,
            measurement=None if probe else finished.result.measurement,
        )
        keep(desk.journal, f"study/{study.id}", job)
        self.drop(desk)
        return True

    def _failed(self, desk: Desk, study: Study, failure: WorkerFailure, *, timed_out: bool) -> bool:
        away = failure.code in ("unavailable", "busy") and not failure.permanent
        if failure.retry_after_s is not None or away:
            self._waits += 1
        else:
            self._tries += 1
        damaged = failure.code in ("digest", "archive") and self._stage is not Stage.RUN
        if damaged and not failure.permanent and not self._refetched:
            self._refetched = True
            durable.remove(desk.folders.archive(study.bundle))
            self._enter(Stage.FETCH)
        elif failure.permanent or timed_out or self._tries >= transitions.MAX_ATTEMPTS:
            return self._give_up(desk, f"{self._stage.value}: {failure.message}")
        wait_s = transitions.backoff_s(self._tries or self._waits, self._jitter())
        self._not_before_s = desk.now_s + max(wait_s, failure.retry_after_s or 0.0)
        return False

    def _give_up(self, desk: Desk, reason: str) -> bool:
        if self._study is not None:
            log.warning("action=study_failed id=%s reason=%s", self._study.id, reason)
            desk.journal.save_study(self._study.id, reason)
        self.drop(desk)
        return True

    def _enter(self, stage: Stage) -> None:
        self._stage, self.held = stage, ""
        self._tries = self._waits = 0
        self._not_before_s = 0.0
