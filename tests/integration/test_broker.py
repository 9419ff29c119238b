"""mosquitto as our child: who gets in, who reads what, and that it dies with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import FitmentError, Temporary
from controller.gateway import mqtt
from controller.gateway.broker import Broker, find_mosquitto, free_port
from controller.gateway.mqtt import Endpoint, MqttLink
from fitment.core.link import Uplink
from fitment.core.telemetry import Presence
from fitment.wire import codec
from tests.integration.gateway_peers import Papers, Peer, wait_for

FOUND = find_mosquitto()
pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    (tmp_path / "trust").mkdir()
    made = Papers.make(tmp_path / "trust")
    for name in ("device-a", "device-b"):
        made.device(name)
    return made


@pytest.fixture
def broker(papers: Papers, tmp_path: Path) -> Iterator[Broker]:
    assert FOUND.program is not None
    made = Broker(
        FOUND.program, tmp_path / "broker", host="127.0.0.1", port=0, identity=papers.identity()
    )
    made.start()
    yield made
    made.stop()
    assert made.pid == 0


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    opened: list[Peer] = []
    yield opened
    while opened:
        opened.pop().close()


def test_a_device_reads_and_writes_only_its_own(
    papers: Papers, broker: Broker, peers: list[Peer]
) -> None:
    controller = Peer(papers, "ctl.1", broker.port)
    a, b = Peer(papers, "device-a", broker.port), Peer(papers, "device-b", broker.port)
    peers += [controller, a, b]
    assert controller.connect()
    assert a.connect()
    assert b.connect()
    controller.client.subscribe("fitment/v1/+/up/#", qos=1)
    b.client.subscribe("#", qos=1)
    b.client.subscribe("fitment/v1/device-a/down/#", qos=1)
    a.client.subscribe("fitment/v1/device-a/down/#", qos=1)
    time.sleep(0.2)
    controller.client.publish("fitment/v1/device-a/down/desired", b"secret", qos=1, retain=True)
    a.client.publish("fitment/v1/device-a/up/reported", b"honest", qos=1)
    b.client.publish("fitment/v1/device-a/up/reported", b"forged", qos=1)
    b.client.publish("fitment/v1/device-a/down/desired", b"steered", qos=1)
    b.client.publish("fitment/v1/device-b/up/reported", b"own", qos=1)
    assert sorted(controller.drain()) == [
        ("fitment/v1/device-a/up/reported", b"honest"),
        ("fitment/v1/device-b/up/reported", b"own"),
    ]
    assert a.drain(0.0) == [("fitment/v1/device-a/down/desired", b"secret")]
    assert b.drain(0.0) == []


def test_strangers_are_refused(
    papers: Papers, broker: Broker, peers: list[Peer], tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    foreign = Papers.make(tmp_path / "foreign", "Another authority")
    foreign.device("device-a")
    stranger = Peer(foreign, "device-a", broker.port, trust=papers)
    nameless = Peer(papers, "", broker.port, client_id="device-a")
    peers += [stranger, nameless]
    assert not stranger.connect()
    assert not nameless.connect()


def test_another_device_s_client_id_does_not_evict_it(
    papers: Papers, broker: Broker, peers: list[Peer]
) -> None:
    victim = Peer(papers, "device-a", broker.port, clean=False)
    thief = Peer(papers, "device-b", broker.port, client_id="device-a")
    peers += [victim, thief]
    assert victim.connect()
    victim.client.subscribe("fitment/v1/device-a/down/#", qos=1)
    assert thief.connect()
    thief.client.subscribe("fitment/v1/device-a/down/#", qos=1)
    controller = Peer(papers, "ctl.1", broker.port)
    peers.append(controller)
    assert controller.connect()
    controller.client.publish("fitment/v1/device-a/down/command", b"for a", qos=1)
    assert victim.drain() == [("fitment/v1/device-a/down/command", b"for a")]
    assert victim.disconnects == 0
    assert thief.drain(0.0) == []


def test_a_revoked_device_is_silent_at_once_and_stays_out(
    papers: Papers, broker: Broker, peers: list[Peer]
) -> None:
    controller = Peer(papers, "ctl.1", broker.port)
    a, b = Peer(papers, "device-a", broker.port), Peer(papers, "device-b", broker.port)
    peers += [controller, a, b]
    assert all([controller.connect(), a.connect(), b.connect()])
    controller.client.subscribe("fitment/v1/+/up/#", qos=1)
    papers.ca.revoke(papers.serials["device-a"], at=time.time())
    papers.write("crl.pem", papers.ca.crl_pem())
    broker.reload(["device-a"])
    time.sleep(0.5)
    a.client.publish("fitment/v1/device-a/up/reported", b"still here", qos=1)
    b.client.publish("fitment/v1/device-b/up/reported", b"hello", qos=1)
    assert controller.drain() == [("fitment/v1/device-b/up/reported", b"hello")]
    again = Peer(papers, "device-a", broker.port)
    peers.append(again)
    assert not again.connect()
    assert b.disconnects == 0


def test_a_broker_that_died_comes_back(papers: Papers, broker: Broker, peers: list[Peer]) -> None:
    before = broker.pid
    os.kill(before, signal.SIGKILL)
    assert wait_for(lambda: broker.pid not in {0, before})
    a = Peer(papers, "device-a", broker.port)
    peers.append(a)
    assert wait_for(a.connect)


def test_a_broker_that_died_does_not_tell_of_the_past(
    papers: Papers, broker: Broker, peers: list[Peer]
) -> None:
    a = Peer(papers, "device-a", broker.port)
    peers.append(a)
    assert a.connect()
    a.client.publish("fitment/v1/device-a/up/reported", b"old", qos=1, retain=True)
    a.drain()
    before = broker.pid
    os.kill(before, signal.SIGUSR1)  # asks mosquitto to save what it knows, where it may
    a.drain()
    a.client.publish("fitment/v1/device-a/up/reported", b"new", qos=1, retain=True)
    a.drain()
    a.close()
    os.kill(before, signal.SIGKILL)
    assert wait_for(lambda: broker.pid not in {0, before})
    controller = Peer(papers, "ctl.1", broker.port)
    peers.append(controller)
    assert wait_for(controller.connect)
    controller.client.subscribe("fitment/v1/+/up/#", qos=1)
    assert controller.drain() == []


def test_a_bad_configuration_says_why(papers: Papers, tmp_path: Path) -> None:
    assert FOUND.program is not None
    papers.write("server.crt", b"no certificate")
    broken = Broker(
        FOUND.program, tmp_path / "broken", host="127.0.0.1", port=0, identity=papers.identity()
    )
    with pytest.raises(FitmentError, match="mosquitto does not start"):
        broken.start()
    assert broken.pid == 0


CHILD = """
import sys, time
from pathlib import Path
from controller.gateway.broker import Broker, Identity, find_mosquitto
trust, folder = Path(sys.argv[1]), Path(sys.argv[2])
identity = Identity(ca=trust / "ca.crt", certificate=trust / "server.crt",
                    key=trust / "server.key", crl=trust / "crl.pem")
broker = Broker(find_mosquitto().program, folder, host="127.0.0.1", port=0, identity=identity)
broker.start()
print(broker.pid, flush=True)
time.sleep(60)
"""


def test_it_does_not_outlive_a_killed_controller(
    papers: Papers, tmp_path: Path, root: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(papers.folder), str(tmp_path / "orphan")],
        stdout=subprocess.PIPE, text=True, cwd=root,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_for(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_missing_program_is_named() -> None:
    found = find_mosquitto(path="/nonexistent")
    assert found.program is None
    assert "apt-get install mosquitto" in found.reason


class Heard:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.online: list[str] = []
        self.offline: list[str] = []

    def on_up(self, device: str, uplink: Uplink) -> None:
        assert uplink.presence is not None

    def on_online(self, device: str) -> None:
        self.online.append(device)

    def on_offline(self, device: str) -> None:
        self.offline.append(device)


def test_the_link_comes_back_with_its_broker(
    papers: Papers, broker: Broker, peers: list[Peer]
) -> None:
    link = MqttLink(
        Endpoint(
            host="127.0.0.1", port=broker.port, ca=papers.folder / "ca.crt",
            certificate=papers.folder / "ctl.1.crt", key=papers.folder / "ctl.1.key",
        )
    )  # fmt: skip
    heard = Heard()
    link.start(heard)
    before = broker.pid
    os.kill(before, signal.SIGKILL)
    assert wait_for(lambda: broker.pid not in {0, before})
    a = Peer(papers, "device-a", broker.port)
    peers.append(a)
    assert wait_for(a.connect)
    presence = codec.encode(Uplink(presence=Presence(online=True, boot_id="b")))
    a.client.publish("fitment/v1/device-a/up/presence", presence, qos=1, retain=True)
    assert wait_for(lambda: heard.online == ["device-a"], 15)
    # What is retained of a device that is shut out goes with it.
    link.evict("device-a")
    controller = Peer(papers, "ctl.1", broker.port)
    link.stop()
    peers.append(controller)
    assert controller.connect()
    controller.client.subscribe("fitment/v1/+/up/#", qos=1)
    assert controller.drain() == []


def test_a_broker_that_is_not_there_is_said_in_words(
    papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CONNECT_WAIT_S", 0.3)
    link = MqttLink(
        Endpoint(
            host="127.0.0.1", port=free_port("127.0.0.1"), ca=papers.folder / "ca.crt",
            certificate=papers.folder / "ctl.1.crt", key=papers.folder / "ctl.1.key",
        )
    )  # fmt: skip
    with pytest.raises(Temporary, match="did not let"):
        link.start(Heard())
