"""Whether a deployment may switch now: its maintenance windows beside the device's clock.

The controller has turned local times into moments, so that nothing here knows time zones. A
clock that is behind the latest trusted time is wrong, and opens no window.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fitment.core.deployment import Span

MARGIN_S: Final = 10.0
"""What must be left of a window, beyond the trial, for a switch to begin in it."""
LOOK_S: Final = 30.0
"""Between two looks at most: clocks are set meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the clock says."""

    open: bool
    after_s: float = 0.0  # when closed: seconds until the next look is worth it
    reason: str = ""  # when closed
    problem: str = ""  # what somebody must mend; empty: it only has to wait


def look(windows: Sequence[Span], *, wall_unix: float, floor_unix: float, needs_s: float) -> Look:
    """Whether ``needs_s`` seconds of a window are left now.

    Args:
        windows: in order and apart; without any it may switch at any time.
        wall_unix: what the device's clock says.
        floor_unix: the latest trusted time; an earlier clock is not believed.
        needs_s: seconds that must be left before the window closes.
    """
    if not windows:
        return Look(open=True)
    if wall_unix < floor_unix:
        problem = (
            f"its clock says {moment(wall_unix)}, which is before the latest trusted time"
            f" {moment(floor_unix)}: it switches only when the clock is set"
        )
        return Look(open=False, after_s=LOOK_S, reason=problem, problem=problem)
    for window in windows:
        if wall_unix + needs_s > window.closes_unix:
            continue  # over, or too little of it is left
        left_s = window.opens_unix - wall_unix
        if left_s <= 0:
            return Look(open=True)
        reason = f"its next window opens at {moment(window.opens_unix)}"
        return Look(open=False, after_s=min(left_s, LOOK_S), reason=reason)
    reason = f"its last window closed at {moment(windows[-1].closes_unix)}"
    return Look(open=False, after_s=LOOK_S, reason=reason)


def moment(unix: float) -> str:
    """A moment for people, in UTC."""
    try:
        when = dt.datetime.fromtimestamp(unix, tz=dt.timezone.utc)
    except (OverflowError, OSError, ValueError):
        return f"{unix:.0f} s"
    return when.strftime("%Y-%m-%d %H:%M UTC")
