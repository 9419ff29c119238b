"""mosquitto as our child: who gets in, who reads what, and that it dies with us."""

from __future__ import annotations

import os
import queue
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from controller.gateway.broker import Broker, Identity, find_mosquitto
from controller.trust.ca import CertificateAuthority

FOUND = find_mosquitto()
pytestmark = pytest.mark.skipif(FOUND.program is None, reason=FOUND.reason)


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@dataclass
class Papers:
    """A CA and what it issued, as files."""

    folder: Path
    ca: CertificateAuthority
    serials: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, name: str = "Fitment test") -> Papers:
        papers = cls(folder=folder, ca=CertificateAuthority.create(folder / "ca", name))
        key, chain = papers.ca.issue_server(["localhost"])
        papers.write("server.key", key)
        papers.write("server.crt", chain)
        papers.write("ca.crt", papers.ca.certificate_pem)
        papers.write("crl.pem", papers.ca.crl_pem())
        key, certificate = papers.ca.issue_controller("ctl.1")
        papers.write("ctl.1.key", key)
        papers.write("ctl.1.crt", certificate)
        return papers

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def identity(self) -> Identity:
        return Identity(
            ca=self.folder / "ca.crt", certificate=self.folder / "server.crt",
            key=self.folder / "server.key", crl=self.folder / "crl.pem",
        )  # fmt: skip

    def device(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .sign(key, hashes.SHA256())
        )
        issued = self.ca.issue_device(
            request.public_bytes(serialization.Encoding.PEM), name, days=1
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip
        self.write(f"{name}.key", private)
        self.write(f"{name}.crt", issued.pem)
        self.serials[name] = issued.serial


class Peer:
    """A device's (or a thief's) MQTT client."""

    def __init__(
        self, papers: Papers, name: str, port: int, *, client_id: str = "", clean: bool = True,
        trust: Papers | None = None,
    ) -> None:  # fmt: skip
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connects = 0
        self.disconnects = 0
        self._port = port
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id or name, clean_session=clean,
            protocol=paho.MQTTv311,
        )  # fmt: skip
        context = ssl.create_default_context(
            cafile=str((trust or papers).folder / "ca.crt")
        )
        if name:
            certificate = papers.folder / f"{name}.crt"
            context.load_cert_chain(str(certificate), str(papers.folder / f"{name}.key"))
        self.client.tls_set_context(context)
        self.client.on_message = self._on_message
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.received.put((message.topic, bytes(message.payload)))

    def _on_connect(self, _c: Any, _d: Any, _f: Any, reason: Any, _p: Any) -> None:
        self.connects += 0 if reason.is_failure else 1

    def _on_disconnect(self, *_arguments: Any) -> None:
        self.disconnects += 1

    def connect(self) -> bool:
        """Whether the broker let it in."""
        try:
            self.client.connect("127.0.0.1", self._port, keepalive=10)
        except (OSError, ssl.SSLError):
            return False
        self.client.loop_start()
        return wait_for(lambda: self.connects > 0 or self.disconnects > 0) and self.connects > 0

    def drain(self, pause_s: float = 0.4) -> list[tuple[str, bytes]]:
        time.sleep(pause_s)
        return [self.received.get() for _ in range(self.received.qsize())]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        # Without this cycle paho closes its wake-up sockets at once.
        self.client.on_message = self.client.on_connect = self.client.on_disconnect = None


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


def test_a_bad_configuration_says_why(papers: Papers, tmp_path: Path) -> None:
    assert FOUND.program is not None
    papers.write("server.crt", b"no certificate")
    broken = Broker(
        FOUND.program, tmp_path / "broken", host="127.0.0.1", port=0, identity=papers.identity()
    )
    with pytest.raises(Exception, match="mosquitto does not start"):
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
