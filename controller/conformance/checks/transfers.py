"""Transfers that are cut or refused."""

from __future__ import annotations

from typing import Final

from controller.conformance.case import Case
from controller.conformance.spec import Check, hold

_BYTES: Final = 300_000
_CUT_AFTER: Final = 96 * 1024
_BUSY_S: Final = 1.5
_CLOCK_S: Final = 0.05  # that two looks at the clock may differ by


def _resumes(case: Case) -> str:
    ref = case.bundle(padding=_BYTES)
    case.servers.faults.cut_after = _CUT_AFTER
    order = case.order(ref)
    case.wish(case.sign(order))
    case.committed(order)
    offsets = [asked.offset for asked in case.fetches(ref)]
    hold(len(offsets) > 1, "the transfer was cut, and it was not asked for again")
    hold(any(offsets[1:]), f"it began anew at 0: offsets {offsets}")
    hold(max(offsets) <= ref.archive_bytes, f"an offset beyond the file: {offsets}")
    return f"cut after {_CUT_AFTER} of {ref.archive_bytes} bytes, went on: offsets {offsets}"


def _busy(case: Case) -> str:
    ref = case.bundle()
    case.servers.faults.busy_s = _BUSY_S
    order = case.order(ref)
    case.wish(case.sign(order))
    case.committed(order)
    asked = case.fetches(ref)
    hold(len(asked) > 1, "it was refused, and committed without asking again")
    waited = asked[1].at_s - asked[0].at_s
    hold(waited >= _BUSY_S - _CLOCK_S, f"asked again after {waited:.2f} s, told were {_BUSY_S} s")
    burnt = max(report.attempts for report in case.records.deployment(order.deployment))
    hold(burnt == 0, f"it counted {burnt} failed attempts for a controller that was busy")
    return f"asked again after {waited:.1f} s, no attempt counted"


CHECKS: Final = (
    Check(
        id="fetch-resumes",
        says="A transfer that was cut goes on where it ended.",
        run=_resumes,
    ),
    Check(
        id="fetch-busy",
        says="Who is told to come back later waits as long as it was told, and counts no attempt.",
        run=_busy,
    ),
)
