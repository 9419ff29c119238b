"""The small and frequent messages, over MQTT or the gRPC session, byte for byte.

A check may send what no converter would write, so both take serialized messages.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from controller.conformance.records import Records
from controller.conformance.servers import Servers, Sessions
from controller.errors import UserError
from controller.gateway.broker import Broker, Identity, find_mosquitto
from controller.gateway.mqtt import Endpoint, MqttLink
from controller.trust import Trust, certificates
from fitment.core.link import Uplink
from fitment.wire import topics
from fitment.wire.topics import Kind

LINKS = ("grpc", "mqtt")


class Wire(Protocol):
    """One way to the one device."""

    name: str

    def send(self, device: str, kind: Kind, payload: bytes) -> None:
        """Send a serialized `Downlink`."""
        ...

    def cut(self) -> None:
        """End the connection that stands; the device may come back at once."""
        ...

    def stop(self) -> None:
        """End it for good."""
        ...


class SessionWire:
    """The stream of the gateway; the latest desired state is sent to who connects anew."""

    name = "grpc"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def send(self, device: str, kind: Kind, payload: bytes) -> None:
        del device
        self._sessions.send(payload, kept=kind.retain)

    def cut(self) -> None:
        self._sessions.cut()

    def stop(self) -> None:
        self._sessions.cut()


class MqttWire:
    """The product's own broker and access list, and its own client with a way for raw bytes."""

    name = "mqtt"

    def __init__(
        self, folder: Path, trust: Trust, records: Records, *, host: str, device: str
    ) -> None:
        found = find_mosquitto()
        if found.program is None:
            raise UserError(f"{found.reason}; or check the other link: --link grpc")
        files = trust.files
        identity = Identity(
            ca=files.ca, certificate=files.server_certificate, key=files.server_key, crl=files.crl
        )
        self._broker = Broker(found.program, folder, host=host, port=0, identity=identity)
        self._broker.start()
        self.address = f"{host}:{self._broker.port}"
        endpoint = Endpoint(
            host=host, port=self._broker.port, ca=files.ca,
            certificate=files.controller_certificate, key=files.controller_key,
        )  # fmt: skip
        self._link = _RawMqtt(endpoint)
        self._link.start(_Into(records))
        self._double = _double(endpoint, folder, trust, device)

    def send(self, device: str, kind: Kind, payload: bytes) -> None:
        topic = topics.topic(device, kind)
        self._link.raw(topic, payload, qos=kind.qos, retain=kind.retain)

    def cut(self) -> None:
        """A second client of the device's name takes its session over and leaves."""
        double = MqttLink(self._double)
        double.start(_Into(Records()))
        double.stop()

    def stop(self) -> None:
        self._link.stop()
        self._broker.stop()


def _double(endpoint: Endpoint, folder: Path, trust: Trust, device: str) -> Endpoint:
    """The broker for a second client with a certificate of the device's name."""
    key = certificates.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    certificate, key_file = folder / "double.crt", folder / "double.key"
    certificate.write_bytes(trust.ca.issue_device(pem, device, 1).pem)
    key_file.touch(mode=0o600)
    key_file.write_bytes(certificates.key_pem(key))
    return replace(endpoint, certificate=certificate, key=key_file, client_id=device)


class _RawMqtt(MqttLink):
    def raw(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Publish bytes as they are."""
        if self._client is not None:
            self._client.publish(topic, payload, qos=qos, retain=retain)


class _Into:
    """Hands what comes to the records."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def on_up(self, device: str, uplink: Uplink) -> None:
        del device
        self._records.add(uplink)

    def on_online(self, device: str) -> None:
        """Told by the presence as well."""

    def on_offline(self, device: str) -> None:
        """Told by the presence as well."""


def make(link: str, folder: Path, servers: Servers, records: Records, device: str) -> Wire:
    """The link that was asked for.

    Raises:
        UserError: there is no such link, or what it needs is not installed.
    """
    if link == "grpc":
        return SessionWire(servers.sessions)
    if link != "mqtt":
        raise UserError(f"no link '{link}'; there are: {', '.join(LINKS)}")
    wire = MqttWire(folder / "broker", servers.trust, records, host=servers.host, device=device)
    servers.mqtt_address = wire.address
    return wire
