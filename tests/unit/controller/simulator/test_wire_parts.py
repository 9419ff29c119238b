"""Bytes and rules of modelled agents on the wire; the whole is in tests/integration."""

from __future__ import annotations

import random
import resource

import pytest

from agent.domain.patience import RESEND_S, WINDOW
from controller.errors import UserError
from controller.simulator import mqtt311
from controller.simulator.agents import Pace
from controller.simulator.crowd import make_room
from controller.simulator.mqtt311 import Connack, Puback, Publish, Reader, Suback
from controller.simulator.outbox import Outbox
from fitment.core.telemetry import Ack

# As the standard writes them (MQTT 3.1.1, 3.1 to 3.10), byte by byte.
CONNECT = (
    b"\x10\x17\x00\x04MQTT\x04\x2e\x00\x1e\x00\x03dev\x00\x01w\x00\x03off"
)  # fmt: skip


def test_a_connect_asks_for_a_clean_session_and_leaves_a_will() -> None:
    made = mqtt311.connect("dev", keepalive_s=30, will_topic="w", will=b"off")
    assert made == CONNECT


def test_packets_that_are_sent() -> None:
    assert mqtt311.subscribe(1, "a/#") == b"\x82\x08\x00\x01\x00\x03a/#\x01"
    assert mqtt311.publish("t", b"x", packet_id=7, retain=True) == b"\x33\x06\x00\x01t\x00\x07x"
    assert mqtt311.publish("t", b"x", packet_id=7, retain=False)[0] == 0x32
    assert mqtt311.puback(258) == b"\x40\x02\x01\x02"


def test_a_long_packet_says_its_length_in_several_bytes() -> None:
    made = mqtt311.publish("t", b"x" * 20_000, packet_id=1, retain=False)
    assert made[1:4] == b"\xa5\x9c\x01"  # 20,005
    ((found),) = Reader().feed(made)
    assert found == Publish("t", b"x" * 20_000, 1)


RECEIVED = (
    b"\x20\x02\x00\x00\x90\x03\x00\x01\x01\xd0\x00\x40\x02\x00\x09"
    b"\x30\x04\x00\x01tq\x3b\x06\x00\x01t\x00\x05r"
)  # fmt: skip
PACKETS = [Connack(0), Suback(1), Puback(9), Publish("t", b"q", 0), Publish("t", b"r", 5)]


@pytest.mark.parametrize("seed", range(20))
def test_packets_come_in_whatever_pieces(seed: int) -> None:
    chance, reader = random.Random(seed), Reader()
    found, rest = [], RECEIVED
    while rest:
        size = chance.randint(1, 6)
        found += reader.feed(rest[:size])
        rest = rest[size:]
    assert found == PACKETS


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x10\x02\x00\x00",  # a broker sends no CONNECT
        b"\x20\x00",  # cut short
        b"\x34\x04\x00\x01tq",  # quality 2 was not asked for
        b"\x32\x03\x00\x01t",  # no packet id
    ],
)
def test_what_no_broker_sends_is_an_error(data: bytes) -> None:
    with pytest.raises(mqtt311.ProtocolError):
        Reader().feed(data)


def filled(batches: int) -> Outbox:
    outbox = Outbox("o")
    for number in range(batches):
        outbox.append({"temperature_c": 1.0}, {}, now=float(number), wall_s=float(number))
    return outbox


def test_an_outbox_sends_a_window_and_waits_for_acks() -> None:
    outbox = filled(WINDOW + 4)
    sent = outbox.due(100.0)
    assert [b.sequence for b in sent] == list(range(1, WINDOW + 1))
    assert {b.first_available for b in sent} == {1}
    assert outbox.due(101.0) == []
    assert outbox.acknowledge(Ack(outbox="another", sequence=9), 102.0) == []
    assert outbox.acknowledge(Ack(outbox="o", sequence=2), 102.0) == [2.0, 2.0]
    assert [b.sequence for b in outbox.due(102.0)] == [WINDOW + 1, WINDOW + 2]
    assert outbox.acknowledge(Ack(outbox="o", sequence=2), 103.0) == [], "an ack that came twice"


def test_what_is_not_acknowledged_is_sent_again() -> None:
    outbox = filled(2)
    assert len(outbox.due(0.0)) == 2
    assert outbox.due(RESEND_S) == []
    assert [b.sequence for b in outbox.due(RESEND_S + 1)] == [1], (
        "one, to see whether it gets there"
    )
    assert outbox.due(2 * RESEND_S) == [], "it waits for twice as long"
    outbox.resend()
    assert [b.sequence for b in outbox.due(RESEND_S + 2)] == [1], "the link is new"
    assert outbox.acknowledge(Ack(outbox="o", sequence=1), 60.0) == [60.0], "from the first sending"
    assert [b.sequence for b in outbox.due(60.0)] == [2]
    assert len(outbox) == 1


def test_modelled_time_follows_ours_at_its_pace() -> None:
    pace = Pace(factor=4.0, began=100.0, wall_s=1e9)
    assert pace.modelled(110.0) == 1e9 + 40.0
    assert pace.ours(pace.modelled(123.0)) == pytest.approx(123.0)


def test_more_sockets_than_are_allowed_are_refused_in_words() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        pytest.skip("this machine allows any number of open files")
    with pytest.raises(UserError, match="ulimit -Hn"):
        make_room(most)
