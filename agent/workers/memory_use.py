"""Memory of this process, by ``/proc/self``."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_TAKEN_FIRST = 500  # of -1000 to 1000: half of all memory as a handicap
_RESET_PEAK = "5"  # from the kernel's documentation of /proc/PID/clear_refs


def go_first() -> None:
    """Where memory runs out, let the kernel take this process before the supervisor and others.

    A unit's ``OOMScoreAdjust`` is inherited, so workers would be as safe as the supervisor.
    """
    with contextlib.suppress(OSError, ValueError):  # no Linux
        if int(_OOM_SCORE.read_text()) < _TAKEN_FIRST:
            _OOM_SCORE.write_text(str(_TAKEN_FIRST))


class PeakMeter:
    """Peak resident memory of what happens after it was made, above what was there before."""

    def __init__(self) -> None:
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self._before = _status_bytes("VmHWM")  # an older peak hides smaller ones: a low bound
        else:
            self._before = _status_bytes("VmRSS")

    def peak_bytes(self) -> int | None:
        """The highest so far; None where the system does not tell."""
        now = _status_bytes("VmHWM")
        if now is None or self._before is None:
            return None
        return max(0, now - self._before)


def _status_bytes(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None
