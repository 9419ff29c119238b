"""Orders that may switch between certain moments alone.

The moments are those of this machine's clock: an agent elsewhere needs one that agrees by a second.
"""

from __future__ import annotations

import time
from typing import Final

from controller.conformance.case import QUIET_S, Case
from controller.conformance.spec import Check, NotRun, hold
from fitment.core.deployment import UNDERSTANDS_WINDOWS, Assignment, Span
from fitment.core.deployment import DeploymentState as State

OPENS_AFTER_S: Final = 6
_LASTS_S: Final = 600
_STILL: Final = (State.FETCHING, State.VERIFYING, State.STAGING, State.WAITING)
"""What may be done of an order while its windows are shut."""
_CLOCK_S: Final = 1.0  # by which a report may seem early


def _heeds(case: Case) -> None:
    if UNDERSTANDS_WINDOWS not in case.ready().understands:
        raise NotRun(
            f"it does not say '{UNDERSTANDS_WINDOWS}' in understands, so no controller sends it"
            " an order with windows"
        )


def _early(case: Case, order: Assignment, until_s: float) -> list[str]:
    """States beyond waiting that were reported before a moment of the monotonic clock."""
    found = []
    for seen in list(case.records.messages):
        reported = seen.uplink.reported
        if reported is None or seen.at_s >= until_s:
            continue
        mine = [d for d in reported.deployments if d.deployment == order.deployment]
        found += [d.state.value for d in mine if d.outcome is None and d.state not in _STILL]
        found += [d.outcome.value for d in mine if d.outcome is not None]
    return list(dict.fromkeys(found))


def _opens(case: Case) -> str:
    _heeds(case)
    ref = case.bundle()
    opens = int(time.time()) + OPENS_AFTER_S
    opens_s = time.monotonic() + opens - time.time()
    window = Span(opens_unix=opens, closes_unix=opens + _LASTS_S)
    order = case.order(ref, windows=(window,))
    case.wish(case.sign(order))
    held = case.records.wait(
        lambda: _early(case, order, opens_s - _CLOCK_S) or time.monotonic() > opens_s,
        OPENS_AFTER_S + QUIET_S,
    )
    early = _early(case, order, opens_s - _CLOCK_S)
    hold(not early, f"its window was shut, and it went on to {', '.join(early)}")
    assert held
    case.committed(order)
    waited = State.WAITING in {r.state for r in case.records.deployment(order.deployment)}
    return f"committed once its window was open{', reported as waiting before' * waited}"


def _over(case: Case) -> str:
    _heeds(case)
    before = case.slot().variant
    now = int(time.time())
    window = Span(opens_unix=now - 2 * _LASTS_S, closes_unix=now - _LASTS_S)
    order = case.order(case.bundle(), windows=(window,))
    case.wish(case.sign(order))
    case.fetching(order.bundle)

    def staged() -> bool:
        seen = case.records.deployment(order.deployment)
        return any(r.state not in _STILL[:3] or r.outcome is not None for r in seen)

    case.records.wait(staged, case.within_s)
    ends_s = time.monotonic() + QUIET_S
    case.records.wait(lambda: _early(case, order, ends_s), QUIET_S)
    went = [state for state in _early(case, order, ends_s) if state not in ("rejected", "failed")]
    hold(not went, f"its window is over, and it went on to {', '.join(went)}")
    hold(case.slot().variant == before, "the slot holds it")
    seen = case.records.deployment(order.deployment)
    return f"it stands at {seen[-1].state.value if seen else 'nothing reported'}"


CHECKS: Final = (
    Check(
        id="window-opens",
        says="An order with windows is neither measured nor switched before one opens, and is"
        " committed in it.",
        run=_opens,
    ),
    Check(
        id="window-over",
        says="An order whose last window is over is not switched.",
        run=_over,
    ),
)
