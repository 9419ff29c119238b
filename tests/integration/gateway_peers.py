"""Real peers for gateway tests: certificates as files, an MQTT client, gRPC channels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from controller.errors import TrustError
from controller.gateway.broker import Identity
from controller.gateway.grpc import ServerFiles
from controller.trust.ca import CertificateAuthority

T = TypeVar("T")


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def key_and_csr(name: str) -> tuple[bytes, bytes]:
    """A new P-256 key and a certificate request for it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )  # fmt: skip
    return private, request.public_bytes(serialization.Encoding.PEM)


def mqtt_client(
    folder: Path, name: str, *, client_id: str = "", clean: bool = True, ca: Path | None = None
) -> paho.Client:
    """A client with the certificate ``name`` of a folder (empty: none)."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id or name, clean_session=clean,
        protocol=paho.MQTTv311,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(ca or folder / "ca.crt"))
    if name:
        context.load_cert_chain(str(folder / f"{name}.crt"), str(folder / f"{name}.key"))
    client.tls_set_context(context)
    return client


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

    def server_files(self) -> ServerFiles:
        return ServerFiles(
            key=self.folder / "server.key", chain=self.folder / "server.crt",
            ca=self.folder / "ca.crt",
        )  # fmt: skip

    @staticmethod
    def channel_of(folder: Path, name: str, address: str) -> grpc.Channel:
        """A channel to a gateway with the certificate ``name`` of a folder."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(folder / "ca.crt").read_bytes(),
            private_key=(folder / f"{name}.key").read_bytes(),
            certificate_chain=(folder / f"{name}.crt").read_bytes(),
        )
        return grpc.secure_channel(address, credentials)

    def channel(self, name: str, port: int) -> grpc.Channel:
        """A channel to the gateway as a device."""
        return self.channel_of(self.folder, name, f"127.0.0.1:{port}")

    def anonymous_channel(self, port: int) -> grpc.Channel:
        """A channel without a client certificate."""
        roots = (self.folder / "ca.crt").read_bytes()
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials)

    def mqtt_client(
        self, name: str, *, client_id: str = "", clean: bool = True, trust: Papers | None = None
    ) -> paho.Client:
        """A client with the certificate of ``name`` (empty: none)."""
        ca = (trust or self).folder / "ca.crt"
        return mqtt_client(self.folder, name, client_id=client_id, clean=clean, ca=ca)

    def device(self, name: str) -> None:
        """Enrol a device without the wire."""
        private, request = key_and_csr(name)
        issued = self.ca.issue_device(request, name, days=1)
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
        self.client = papers.mqtt_client(name, client_id=client_id, clean=clean, trust=trust)
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


class TwinEngine:
    """An engine without a fleet: one thread, in order."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def call(self, fn: Callable[[], T]) -> concurrent.futures.Future[T]:
        return self._pool.submit(fn)

    def stop(self) -> None:
        self._pool.shutdown()


@dataclass(frozen=True, kw_only=True)
class TwinAdmission:
    device: str
    certificate_pem: bytes


@dataclass
class TwinFleet:
    """A fleet that admits, allows and remembers."""

    papers: Papers | None = None
    refused: set[str] = field(default_factory=set)
    measurements: list[tuple[str, str, Any, Any]] = field(default_factory=list)
    calibrations: list[tuple[str, str, Any, bytes]] = field(default_factory=list)
    failure: Exception | None = None

    def admit(self, token_text: str, wished_name: str, csr_pem: bytes) -> TwinAdmission:
        if token_text != "good":
            raise TrustError("this token is not known here")
        return TwinAdmission(device=wished_name, certificate_pem=self._issue(wished_name, csr_pem))

    def renew(self, device: str, csr_pem: bytes) -> bytes:
        return self._issue(device, csr_pem)

    def recover(self, device: str, csr_pem: bytes, expired_pem: bytes, proof: bytes) -> bytes:
        if proof != b"proof":
            raise TrustError("the proof does not hold")
        return self._issue(device, csr_pem)

    def is_allowed(self, device: str, serial: str) -> bool:
        assert serial.isdecimal()
        return device not in self.refused

    def on_measurement(self, device: str, study: str, measurement: Any, kernels: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.measurements.append((device, study, measurement, kernels))

    def on_calibration(self, device: str, deployment: str, report: Any, overlay: bytes) -> None:
        self.calibrations.append((device, deployment, report, overlay))

    def _issue(self, name: str, csr_pem: bytes) -> bytes:
        assert self.papers is not None
        return self.papers.ca.issue_device(csr_pem, name, days=1).pem


class LoopThread:
    """An event loop on a thread of its own, as the servers want one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
