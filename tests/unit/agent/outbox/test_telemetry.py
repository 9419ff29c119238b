"""What is sent of the outbox, and how patiently: a fleet must not drown a late controller."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from agent.domain.patience import RESEND_MOST_S, RESEND_S, WINDOW, resend_s
from agent.journal import open_journal
from agent.outbox import Outbox
from agent.telemetry import LastRun, Telemetry
from agent.transport.link import LinkEvent
from fitment.core.link import Uplink
from fitment.core.telemetry import Ack


class Wire:
    """A link that remembers what was sent."""

    def __init__(self) -> None:
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        self.jitter_s = 1.0
        self.sent: list[int] = []

    def send(self, uplink: Uplink) -> None:
        assert uplink.telemetry is not None
        self.sent.append(uplink.telemetry.sequence)

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def describe(self) -> str:
        return "a wire"

    def since(self) -> list[int]:
        found, self.sent = self.sent, []
        return found


def sample(_root: str) -> Mapping[str, float]:
    return {"temperature_c": 40.0}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Telemetry, Wire, Outbox]]:
    with closing(open_journal(tmp_path / "journal.db")) as journal:
        outbox = Outbox(journal)
        yield Telemetry(outbox, boot_id="b", sample=sample), Wire(), outbox


def tick(telemetry: Telemetry, wire: Wire, now_s: float) -> list[int]:
    telemetry.tick(
        wire, online=True, root="/", last=LastRun(), serves=dict, now_s=now_s, wall_unix_s=now_s
    )
    return wire.since()


def test_without_acks_it_gets_patient_and_tries_one(
    made: tuple[Telemetry, Wire, Outbox],
) -> None:
    telemetry, wire, outbox = made
    telemetry.interval_s = 1.0
    sent = [number for second in range(20) for number in tick(telemetry, wire, float(second))]
    assert sent == list(range(1, WINDOW + 1)), "a window, whatever waits"
    telemetry.interval_s = 1e9
    last_s = float(WINDOW - 1)
    at_s = last_s
    for tries in range(7):
        waits_s = min(RESEND_MOST_S, RESEND_S * 2**tries)
        assert resend_s(tries) == waits_s
        assert tick(telemetry, wire, at_s + waits_s - 0.5) == []
        at_s += waits_s + 0.5
        assert tick(telemetry, wire, at_s) == [1], "one, to see whether it gets there"
    telemetry.acknowledge(Ack(outbox=outbox.id, sequence=1))
    assert tick(telemetry, wire, at_s + 1) == list(range(2, WINDOW + 2)), "it got there"


def test_acks_of_another_outbox_say_nothing(made: tuple[Telemetry, Wire, Outbox]) -> None:
    telemetry, wire, _outbox = made
    assert tick(telemetry, wire, 0.0) == [1]
    telemetry.interval_s = 1e9
    assert tick(telemetry, wire, RESEND_S + 1) == [1]
    telemetry.acknowledge(Ack(outbox="another", sequence=9))
    assert tick(telemetry, wire, 2 * RESEND_S + 2) == [], "it still waits twice as long"
    assert tick(telemetry, wire, RESEND_S + 2 + resend_s(1)) == [1]
