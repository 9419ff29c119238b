"""Transfers that are cut or refused."""

from __future__ import annotations

import socket
import time
from typing import Final

from controller.conformance import mirrors
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


def _mirror_lies(case: Case) -> str:
    """The gateway's part is seen, so an agent that asks it for nothing believed the mirror."""
    ref = case.bundle()
    asked: list[float] = []
    content = case.servers.blobs.path(ref.archive).read_bytes()
    with mirrors.altered(content, lambda: asked.append(time.monotonic())) as url:
        case.servers.faults.mirrors = (url,)
        order = case.order(ref)
        case.wish(case.sign(order))
        case.committed(order)
    if not asked:
        return "it asks for no mirror"
    hold(case.fetches(ref), "it took other bytes than were signed from a mirror for the file")
    return "other bytes from a mirror were thrown away, and the file came over the gateway"


def _mirror_gone(case: Case) -> str:
    ref = case.bundle()
    case.servers.faults.mirrors = (f"http://127.0.0.1:{_closed_port()}/file",)
    order = case.order(ref)
    case.wish(case.sign(order))
    case.committed(order)
    asked = case.records.asked("LocateArtifact", ref.archive)
    words = "a mirror that is not there was passed over" if asked else "it asks for no mirror"
    return f"{words}, and the file came over the gateway"


def _closed_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


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
    Check(
        id="fetch-mirror-lies",
        says="What a mirror sends is held to the signed digest, else the file comes over the"
        " gateway.",
        run=_mirror_lies,
    ),
    Check(
        id="fetch-mirror-gone",
        says="A mirror that does not help costs nothing: the file comes over the gateway.",
        run=_mirror_gone,
    ),
)
