"""Which states may follow which, as data."""

from __future__ import annotations

from collections.abc import Mapping

from controller.domain.fleet import JobStatus, RolloutState
from controller.errors import Conflict

ROLLOUT: Mapping[RolloutState, frozenset[RolloutState]] = {
    RolloutState.DRAFT: frozenset(
        {RolloutState.AWAITING_APPROVAL, RolloutState.RUNNING, RolloutState.CANCELLED}
    ),
    RolloutState.AWAITING_APPROVAL: frozenset({RolloutState.RUNNING, RolloutState.CANCELLED}),
    RolloutState.RUNNING: frozenset(
        {
            RolloutState.PAUSED,
            RolloutState.HALTED,
            RolloutState.REVERTING,
            RolloutState.COMPLETED,
            RolloutState.CANCELLED,
        }
    ),
    RolloutState.PAUSED: frozenset(
        {RolloutState.RUNNING, RolloutState.REVERTING, RolloutState.CANCELLED}
    ),
    RolloutState.HALTED: frozenset(
        {RolloutState.RUNNING, RolloutState.REVERTING, RolloutState.CANCELLED}
    ),
    RolloutState.REVERTING: frozenset({RolloutState.REVERTED}),
    RolloutState.REVERTED: frozenset(),
    RolloutState.COMPLETED: frozenset({RolloutState.REVERTING, RolloutState.RUNNING}),
    RolloutState.CANCELLED: frozenset(),
}
"""A halted rollout that runs again acknowledges the failures so far; one that was completed runs
again when devices that failed are to be tried once more."""

JOB: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.PROBING, JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.PROBING: frozenset({JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.CONFIRMING, JobStatus.DONE, JobStatus.FAILED}),
    JobStatus.CONFIRMING: frozenset({JobStatus.DONE, JobStatus.FAILED}),
    JobStatus.DONE: frozenset(),
    JobStatus.FAILED: frozenset(),
}


def check_rollout(before: RolloutState, after: RolloutState) -> None:
    """Refuse a step that the table does not have.

    Raises:
        Conflict: saying in which state the rollout is.
    """
    if after not in ROLLOUT[before]:
        raise Conflict(f"the rollout is {before.value}; it cannot become {after.value}")


def check_job(before: JobStatus, after: JobStatus) -> None:
    """Refuse a step that the table does not have.

    Raises:
        Conflict: saying in which state the job is.
    """
    if after not in JOB[before]:
        raise Conflict(f"the fit is {before.value}; it cannot become {after.value}")
