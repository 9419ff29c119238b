"""Telemetry: batches, numbers that never reset, and what an acknowledgement means."""

from __future__ import annotations

from typing import Final

from controller.conformance.case import QUIET_S, Case
from controller.conformance.spec import Check, hold
from fitment.core.link import Downlink
from fitment.core.telemetry import Ack, TelemetryBatch
from fitment.wire import codec, topics


def _some(case: Case, count: int, since: int = 0) -> list[TelemetryBatch]:
    """At least so many batches of the newest outbox."""
    case.ready()
    case.wish()  # with a short interval
    case.records.wait(lambda: len(case.records.batches(since)) >= count, case.within_s)
    found = case.records.batches(since)
    hold(len(found) >= count, f"{len(found)} batches within {case.within_s:g} s")
    return found


def _shape(case: Case) -> str:
    for batch in _some(case, 2):
        rows = len(batch.monotonic_ns)
        lengths = {len(batch.wall_unix_ns), *(len(c.values) for c in batch.columns.values())}
        hold(batch.outbox, "a batch without an outbox id")
        hold(rows > 0, "a batch without rows")
        hold(lengths <= {rows}, f"columns of {sorted(lengths)} values beside {rows} rows")
        hold(0 < batch.first_available <= batch.sequence, "first_available is not among them")
    return f"{len(case.records.batches())} batches with columns of one length"


def _sequence(case: Case) -> str:
    """What a cut lost comes later, so a gap is one when it stays."""
    found = _some(case, 3)
    outboxes = {batch.outbox for batch in found}
    hold(len(outboxes) == 1, f"{len(outboxes)} outboxes in one life")
    case.records.wait(lambda: not _gaps(case), case.within_s)
    numbers = sorted({batch.sequence for batch in case.records.batches()})
    hold(not _gaps(case), f"numbers with a gap: {numbers}")
    return f"numbers {numbers[0]} to {numbers[-1]} of one outbox"


def _gaps(case: Case) -> bool:
    numbers = {batch.sequence for batch in case.records.batches()}
    return len(numbers) < max(numbers) - min(numbers) + 1


def _again(case: Case) -> str:
    """Nothing was acknowledged so far, so all of it must come again."""
    lowest = min(batch.sequence for batch in _some(case, 2))
    again = _after_a_cut(case, lambda batch: batch.sequence == lowest)
    hold(again, f"batch {lowest} was never acknowledged and did not come again after a cut")
    return f"batch {lowest} came again after a cut"


def _strange_ack(case: Case) -> str:
    lowest = min(batch.first_available for batch in _some(case, 1))
    _ack(case, "an outbox of somebody else", 1 << 40)
    case.sees(case.wish())  # so that it has come before the cut
    again = _after_a_cut(case, lambda batch: batch.sequence == lowest)
    hold(again, "an acknowledgement for another outbox was taken for its own")
    return f"batch {lowest} is still held"


def _acknowledged(case: Case) -> str:
    newest = _acknowledge(case)
    since = case.records.mark()
    later = case.records.wait(
        lambda: [b for b in case.records.batches(since) if b.first_available > newest.sequence],
        case.within_s,
    )
    hold(later, f"batches up to {newest.sequence} were acknowledged and are still held")
    case.fresh()
    since = case.records.mark()
    case.cut()
    _some(case, 1, since)
    old = [b.sequence for b in case.records.batches(since) if b.sequence <= newest.sequence]
    hold(not old, f"acknowledged batches came again: {old}")
    return f"nothing up to {newest.sequence} came again"


def _acknowledge(case: Case) -> TelemetryBatch:
    """Acknowledge what came last, while the link stands; an agent may wait for it to send more."""
    _some(case, 1)
    since = case.records.mark()
    if not case.records.wait(lambda: case.records.batches(since), QUIET_S):
        case.fresh()
        case.cut()
    newest = _some(case, 1, since)[-1]
    _ack(case, newest.outbox, newest.sequence)
    return newest


def _restart(case: Case) -> str:
    _acknowledge(case)
    case.subject.stop()
    before = case.records.batches()[-1]
    since = case.records.mark()
    found = _some(case, 1, since)
    same = [batch for batch in found if batch.outbox == before.outbox]
    hold(same, "it began another outbox, though nothing was lost")
    _ack(case, same[-1].outbox, same[-1].sequence)  # it may wait for that before it sends more
    case.records.wait(lambda: _highest(case, since) > before.sequence, case.within_s)
    highest = _highest(case, since)
    hold(highest > before.sequence, f"number {before.sequence} was followed by {highest}")
    return f"the same outbox goes on at {highest} after {before.sequence}"


def _highest(case: Case, since: int) -> int:
    return max((batch.sequence for batch in case.records.batches(since)), default=0)


def _after_a_cut(case: Case, wanted: object) -> list[TelemetryBatch]:
    case.fresh()
    since = case.records.mark()
    case.cut()
    assert callable(wanted)
    return case.records.wait(
        lambda: [batch for batch in case.records.batches(since) if wanted(batch)], case.within_s
    )


def _ack(case: Case, outbox: str, sequence: int) -> None:
    case.raw(topics.ACK, codec.encode(Downlink(ack=Ack(outbox=outbox, sequence=sequence))))


CHECKS: Final = (
    Check(
        id="telemetry-shape",
        says="All columns of a batch have as many values as it has times.",
        run=_shape,
    ),
    Check(
        id="telemetry-sequence",
        says="Batches of one outbox are numbered without a gap.",
        run=_sequence,
    ),
    Check(
        id="telemetry-again",
        says="A batch that was not acknowledged is sent again after a reconnect.",
        run=_again,
    ),
    Check(
        id="telemetry-strange-ack",
        says="An acknowledgement for another outbox deletes nothing.",
        run=_strange_ack,
    ),
    Check(
        id="telemetry-acknowledged",
        says="A batch that was acknowledged is not sent again.",
        run=_acknowledged,
    ),
    Check(
        id="telemetry-restart",
        says="Numbers go on after a restart, in the same outbox.",
        run=_restart,
    ),
)
