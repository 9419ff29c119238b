"""Numbers never reset, nothing goes without an ack, and the oldest go when it is full."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.journal import Journal, open_journal
from agent.outbox import Outbox
from fitment.core.telemetry import Ack, TelemetryBatch

Open = Callable[[str], Journal]


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(closing(open_journal(tmp_path / name)))


def fill(outbox: Outbox, count: int) -> list[TelemetryBatch]:
    return [
        outbox.append(
            boot_id="b", monotonic_ns=n, wall_unix_ns=n, columns={"x": float(n), "y": math.nan},
            tags={"slot": "s"},
        )
        for n in range(count)
    ]  # fmt: skip


def test_batches_are_numbered_and_come_back(journals: Open) -> None:
    outbox = Outbox(journals("j.db"))
    assert outbox.first_available() == 1
    assert [b.sequence for b in fill(outbox, 3)] == [1, 2, 3]
    pending = outbox.pending(after=1, limit=10)
    assert [b.sequence for b in pending] == [2, 3]
    assert {b.first_available for b in pending} == {1}
    assert pending[0].columns["x"].values == (1.0,)
    assert math.isnan(pending[0].columns["y"].values[0])
    assert [b.sequence for b in outbox.pending(after=0, limit=1)] == [1]


def test_an_ack_deletes_up_to_its_number_and_only_in_its_outbox(journals: Open) -> None:
    outbox = Outbox(journals("j.db"))
    fill(outbox, 3)
    assert not outbox.acknowledge(Ack(outbox="another", sequence=3))
    assert outbox.count() == 3
    assert outbox.acknowledge(Ack(outbox=outbox.id, sequence=2))
    assert (outbox.count(), outbox.first_available()) == (1, 3)
    outbox.acknowledge(Ack(outbox=outbox.id, sequence=3))
    assert (outbox.count(), outbox.first_available()) == (0, 4)
    assert fill(outbox, 1)[0].sequence == 4


def test_numbers_go_on_in_the_next_process(journals: Open) -> None:
    journal = journals("j.db")
    first = Outbox(journal)
    fill(first, 2)
    first.acknowledge(Ack(outbox=first.id, sequence=2))
    journal.close()
    second = Outbox(journals("j.db"))
    assert second.id == first.id
    assert fill(second, 1)[0].sequence == 3


def test_the_oldest_go_when_it_is_full(journals: Open) -> None:
    outbox = Outbox(journals("j.db"), limit=5)
    last = fill(outbox, 12)[-1]
    assert (outbox.count(), outbox.first_available(), last.first_available) == (5, 8, 8)


def test_a_new_journal_is_a_new_outbox(journals: Open) -> None:
    one = Outbox(journals("one.db"))
    other = Outbox(journals("other.db"))
    assert one.id != other.id
