"""MQTT beyond the contract: falling silent, a taken name, and what the broker keeps."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.transport import mqtt
from agent.transport.link import LinkDown, LinkUp
from agent.transport.mqtt import Broker as Endpoint
from agent.transport.mqtt import MqttLink
from controller.gateway.broker import Broker, find_mosquitto
from fitment.core.deployment import DesiredState, SignedPayload
from fitment.core.link import Downlink, Uplink
from fitment.wire import codec, topics
from tests.integration.chaos_proxy import ChaosProxy, Fault, Kind
from tests.integration.gateway_peers import Papers, wait_for

FOUND = find_mosquitto()
pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)

CHILD = """
import sys, time
from pathlib import Path
from agent.transport.mqtt import Broker, MqttLink
folder, port = Path(sys.argv[1]), int(sys.argv[2])
link = MqttLink(
    Broker(host="127.0.0.1", port=port, ca=folder / "ca.crt", certificate=folder / "device-a.crt",
           key=folder / "device-a.key"),
    device="device-a", boot_id="boot",
)
link.start()
link.events.get(timeout=20)
print("up", flush=True)
time.sleep(60)
"""


class Surroundings:
    def __init__(self, folder: Path) -> None:
        assert FOUND.program is not None
        self.papers = Papers.make(folder)
        self.papers.device("device-a")
        self.broker = Broker(
            FOUND.program, folder / "broker", host="127.0.0.1", port=0,
            identity=self.papers.identity(),
        )  # fmt: skip
        self.broker.start()
        self.seen: list[tuple[str, bool, Uplink]] = []
        ready = threading.Event()
        self.client = self.papers.mqtt_client("ctl.1")
        self.client.on_connect = lambda c, *_: c.subscribe(topics.ALL_UP, qos=1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._take
        self.client.connect_async("127.0.0.1", self.broker.port)
        self.client.loop_start()
        assert ready.wait(10)

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        uplink = codec.decode(Uplink, bytes(message.payload))
        self.seen.append((message.topic, message.retain, uplink))

    def presences(self) -> list[bool]:
        return [up.presence.online for _, _, up in self.seen if up.presence is not None]

    def link(
        self, *, certificate: str = "device-a", device: str = "device-a", port: int = 0
    ) -> MqttLink:
        folder = self.papers.folder
        endpoint = Endpoint(
            host="127.0.0.1", port=port or self.broker.port, ca=folder / "ca.crt",
            certificate=folder / f"{certificate}.crt", key=folder / f"{certificate}.key",
        )  # fmt: skip
        return MqttLink(endpoint, device=device, boot_id="b", jitter_s=0.0, retry_base_s=0.2)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.on_connect = self.client.on_subscribe = self.client.on_message = None
        self.broker.stop()


@pytest.fixture
def place(tmp_path: Path) -> Any:
    made = Surroundings(tmp_path)
    yield made
    made.close()


def test_a_killed_device_is_offline_by_its_will(place: Surroundings) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place.papers.folder), str(place.broker.port)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        assert wait_for(lambda: place.presences() == [True])
        child.send_signal(signal.SIGKILL)
    assert wait_for(lambda: place.presences() == [True, False])


def test_the_desired_state_waits_for_the_device(place: Surroundings) -> None:
    desired = Downlink(desired=DesiredState(generation=8))
    topic = topics.topic("device-a", topics.DESIRED)
    place.client.publish(topic, codec.encode(desired), qos=1, retain=True).wait_for_publish(5)
    link = place.link()
    link.start()
    heard = [link.events.get(timeout=10), link.events.get(timeout=10)]
    assert LinkUp() in heard
    assert desired in heard
    link.stop()


def test_an_order_comes_whole_over_a_bad_line(
    place: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault strikes once, in the middle of the order."""
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 1)
    order = SignedPayload(payload=random.Random(5).randbytes(60_000), key_id="k", signature=b"s")
    desired = Downlink(desired=DesiredState(generation=8, assignments=(order,)))
    topic = topics.topic("device-a", topics.DESIRED)
    place.client.publish(topic, codec.encode(desired), qos=1, retain=True).wait_for_publish(5)
    for kind in Kind:
        fault = Fault(kind=kind, at=30_000, rate=200_000.0)
        with ChaosProxy(place.broker.port, fault) as proxy:
            link = place.link(port=int(proxy.address.rpartition(":")[2]))
            link.start()
            heard = []
            while desired not in heard:
                heard.append(link.events.get(timeout=20))
            assert proxy.connections == (1 if kind is Kind.SLOW else 2), kind
            # What was torn is not taken for an order.
            assert {type(event) for event in heard} <= {LinkUp, LinkDown, Downlink}
            assert [event for event in heard if isinstance(event, Downlink)] == [desired]
            link.stop()


def test_a_foreign_certificate_gets_nowhere_and_says_why(
    place: Surroundings, tmp_path: Path
) -> None:
    (tmp_path / "thief").mkdir()
    thief = Papers.make(tmp_path / "thief", "Another")
    thief.device("device-a")
    for name in ("device-a.crt", "device-a.key"):
        (place.papers.folder / name).write_bytes((thief.folder / name).read_bytes())
    link = place.link()
    link.start()
    down = link.events.get(timeout=10)
    assert isinstance(down, LinkDown)
    assert down.reason
    link.stop()


def test_missing_papers_are_said_and_tried_again(place: Surroundings) -> None:
    key = place.papers.folder / "device-a.key"
    data = key.read_bytes()
    key.unlink()
    link = place.link()
    link.start()
    assert isinstance(link.events.get(timeout=10), LinkDown)
    key.write_bytes(data)  # a renewal puts files in place while the agent runs
    assert link.events.get(timeout=10) == LinkUp()
    link.stop()
