"""Keeping telemetry and labels: rolled up soon, forgotten late, in steps that keep a tick short."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from controller.domain.telemetry import Keep
from controller.reconcile import labelling
from controller.reconcile.context import Context

ROUND_S = 60.0
"""Between two rounds; how late rollups are when there is little to do. A round of a minute adds
to a rollup once where a round of a second would sixty times."""
STEP_ROWS = 200
STEP_LABELS = 200
"""Tallies of labels that a round forgets; they are kept for as long as rollups of days."""
BUDGET_S = 0.05
"""Of one tick; what is left over is the next one's. A step takes a third of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How far a round has come; losing it costs a look at what is done already."""

    begins_at: float = 0.0
    at: str | None = ""  # device that rolling up goes on at; None: all are
    left: tuple[Keep, ...] = tuple(Keep)  # what is still to be forgotten


def advance(context: Context, going: Round) -> Round:
    """Take steps until the round is over, or the tick's share of time is."""
    now = context.clock()
    if now < going.begins_at:
        return going
    until = time.perf_counter() + BUDGET_S
    while going.at is not None or going.left:
        going = _step(context, going, now)
        if time.perf_counter() >= until:
            return going
    bound = context.settings.retention.of(Keep.DAY)
    labelling.forget(context.store, now - bound.age_s, STEP_LABELS)
    return Round(begins_at=now + ROUND_S)


def _step(context: Context, going: Round, now: float) -> Round:
    telemetry = context.store.telemetry
    if going.at is not None:
        return replace(going, at=telemetry.roll_up(going.at, STEP_ROWS))
    what = going.left[0]
    bound = context.settings.retention.of(what)
    gone = telemetry.forget(what, now - bound.age_s, bound.rows, STEP_ROWS)
    return going if gone else replace(going, left=going.left[1:])
