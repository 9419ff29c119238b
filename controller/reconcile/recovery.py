"""The first start on a restored data directory: what cannot wait for the devices' word."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path

from controller.domain import transitions
from controller.domain.fleet import JobStatus, RolloutState
from controller.reconcile import rolling
from controller.reconcile.context import Context
from controller.trust.repository import MOVING

_RESULT = "result.json"
_OVER = (JobStatus.DONE, JobStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the records come from."""

    backup_at: float  # seconds since the epoch
    was: Path  # data directory that the backup was taken of
    now: Path


def begin(context: Context, origin: Origin) -> tuple[str, ...]:
    """Make restored records safe to act on; returns what an operator should know.

    May be done again: a start that was killed in it begins anew.

    - Rollouts that ran then wait: they may have been halted or overtaken since.
    - Tokens of then admit nobody: they may have been used since.
    - All metadata is signed anew: devices have seen later versions.
    """
    since = _moment(origin.backup_at)
    repository, now = context.trust.repository, int(context.clock())
    # Of a role that cannot be signed here, devices say themselves what they have seen.
    signed = repository.move_past({r.value: now for r in MOVING if repository.can_sign(r)})
    _forget_results(context, origin)
    with context.store.transaction():
        paused = _pause(context, since)
        tokens = _end_tokens(context)
        _move(context, origin)
        details = {
            "backup": since, "rollouts_paused": str(paused), "tokens_ended": str(tokens),
            "signed": ", ".join(signed),
        }  # fmt: skip
        context.record("operator", "restored", "controller", details)
    waits = f"; {paused} rollout(s) are paused: look, and resume or cancel them" if paused else ""
    return (
        f"restored from a backup of {since}{waits}",
        f"what was revoked after {since} is not revoked here: revoke it again",
    )


def _pause(context: Context, since: str) -> int:
    running = context.store.rollouts.find(state=RolloutState.RUNNING)
    reason = f"the controller was restored from a backup of {since}"
    for made in running:
        transitions.check_rollout(made.state, RolloutState.PAUSED)
        changed = replace(made, state=RolloutState.PAUSED, reasons=(*made.reasons, reason))
        context.store.rollouts.put(changed)
        context.record("controller", "rollout_paused", made.id, {"reason": reason})
        rolling.hold_back(context, made.id)
    for made in context.store.rollouts.find(state=RolloutState.COMPLETED):
        if made.pending:  # it may have been reverted since: nobody is admitted to it unseen
            context.store.rollouts.put(replace(made, pending=(), reasons=(*made.reasons, reason)))
            details = {"reason": reason, "pending": ", ".join(made.pending)}
            context.record("controller", "pending_dropped", made.id, details)
    return len(running)


def _end_tokens(context: Context) -> int:
    now = context.clock()
    usable = [t for t in context.store.tokens.find(used_by="") if t.expires_at > now]
    for token in usable:
        context.store.tokens.put(replace(token, expires_at=now))
    return len(usable)


def _move(context: Context, origin: Origin) -> None:
    """Records that hold paths below the old directory get those below the new one."""
    if origin.was == origin.now:
        return
    for model in context.store.models.find():
        context.store.models.put(replace(model, snapshot=_moved(model.snapshot, origin)))
    for job in context.store.jobs.find():
        if job.folder:
            context.store.jobs.put(replace(job, folder=_moved(job.folder, origin)))


def _moved(path: str, origin: Origin) -> str:
    below = Path(path)
    if not below.is_relative_to(origin.was):
        return path
    return str(origin.now / below.relative_to(origin.was))


def _forget_results(context: Context, origin: Origin) -> None:
    """What a worker left before the backup names files by their old place: it answers again.

    Its rungs are in the cache, so that costs seconds.
    """
    if origin.was == origin.now:
        return
    over = {job.id for job in context.store.jobs.find() if job.status in _OVER}
    for result in sorted((origin.now / "jobs").glob(f"*/{_RESULT}")):
        if result.parent.name not in over:
            result.unlink()


def _moment(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, tz=dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
