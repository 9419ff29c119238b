"""Which link runs, and keeping it shut for revoked devices."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controller.config import LinkChoice, Settings
from controller.errors import UserError
from controller.gateway.broker import Broker, Identity, find_mosquitto
from controller.gateway.link import Link
from controller.gateway.mqtt import Endpoint, MqttLink
from controller.gateway.session import SessionLink
from controller.trust import TrustFiles

log = logging.getLogger(__name__)

MQTT_TLS_PORT = 8883

Revoked = Callable[[], frozenset[str]]
"""Names of devices that are revoked now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The link and what stands in front of it."""

    link: Link
    sessions: SessionLink | None  # set when the link is the gRPC session
    broker: Broker | None  # set when the broker is our child
    mqtt_address: str  # host:port that devices are told; empty: the gRPC session
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``mqtt`` or ``grpc``."""
        return "grpc" if self.sessions is not None else "mqtt"

    def close(self) -> None:
        """End what stands in front of the link; the link itself is stopped before."""
        if self.broker is not None:
            self.broker.stop()


def open_door(settings: Settings, files: TrustFiles, revoked: Revoked) -> Door:
    """Choose the link, and start our own broker where it is one.

    Raises:
        UserError: the settings ask for MQTT and there is no mosquitto, nor a broker's address.
        FitmentError: mosquitto does not start.
    """
    if settings.mqtt_url and settings.link is not LinkChoice.GRPC:
        return _foreign_broker(settings.mqtt_url, files)
    if settings.link is LinkChoice.GRPC:
        return _session()
    found = find_mosquitto()
    if found.program is not None:
        return _own_broker(found.program, settings, files, revoked)
    if settings.link is LinkChoice.MQTT:
        raise UserError(f"link is 'mqtt', but {found.reason}; or set link to 'grpc' or 'auto'")
    return _session(f"{found.reason}: devices use the gRPC session")


def _session(*notes: str) -> Door:
    sessions = SessionLink()
    return Door(link=sessions, sessions=sessions, broker=None, mqtt_address="", notes=notes)


def _foreign_broker(url: str, files: TrustFiles) -> Door:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or MQTT_TLS_PORT
    except ValueError as error:
        raise UserError(f"'mqtt_url' is {url}: {error}") from error
    if not host:
        raise UserError(f"'mqtt_url' is {url}: it names no host (expected mqtts://host:port)")
    return Door(
        link=MqttLink(_endpoint(host, port, files)),
        sessions=None,
        broker=None,
        mqtt_address=f"{host}:{port}",
        notes=("the broker is not ours: give it our ca.crt, crl.pem and access list yourself",),
    )


def _own_broker(program: str, settings: Settings, files: TrustFiles, revoked: Revoked) -> Door:
    broker = Broker(
        program,
        settings.data_dir.resolve() / "broker",
        host=settings.host,
        port=settings.mqtt_port,
        identity=_identity(files),
    )
    broker.start(revoked())
    return Door(
        link=MqttLink(_endpoint(broker.local_host, broker.port, files)),
        sessions=None,
        broker=broker,
        mqtt_address=f"{settings.told_host}:{broker.port}",
    )


def _identity(files: TrustFiles) -> Identity:
    return Identity(
        ca=files.ca, certificate=files.server_certificate, key=files.server_key, crl=files.crl
    )


def _endpoint(host: str, port: int, files: TrustFiles) -> Endpoint:
    return Endpoint(
        host=host,
        port=port,
        ca=files.ca,
        certificate=files.controller_certificate,
        key=files.controller_key,
    )


class Doorkeeper:
    """Brings broker and sessions in line with who is revoked, whenever that may have changed."""

    def __init__(self, door: Door, revoked: Revoked, crl: Path) -> None:
        self._door = door
        self._revoked = revoked
        self._crl = crl
        self._known = (revoked(), _content(crl))

    def look(self) -> None:
        """Act on a change since the last look; not on the engine's thread, which it asks."""
        now = (self._revoked(), _content(self._crl))
        if now == self._known:
            return
        before, self._known = self._known[0], now
        if self._door.broker is not None:
            self._door.broker.reload(now[0])
        for device in sorted(now[0] - before):
            log.info("action=shut_out device=%s", device)
            self._door.link.evict(device)


def _content(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""
