"""Who this device is to its controller, as enrolment wrote it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from agent.config import Settings
from agent.desk import Folders
from agent.errors import NotEnrolledError
from agent.jobs import Connection
from fitment.core import plain

_RENEW_AT_MOST_S = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``keys/enrolment.json``; addresses are ``host:port``."""

    device: str
    gateway: str
    mqtt: str = ""  # empty: the gRPC session
    enroll: str = ""
    expires_unix: float = 0.0


def read_identity(folders: Folders, settings: Settings) -> Identity:
    """The identity; addresses in the settings win over those told at enrolment.

    Raises:
        NotEnrolledError: there is none, or it is damaged.
    """
    path = folders.keys / "enrolment.json"
    try:
        identity = plain.from_plain(Identity, json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotEnrolledError(
            f"this device is not enrolled ({path} is not there): make a token on the controller,"
            " then: fitment-agent enroll --controller HOST:PORT --token TOKEN"
        ) from error
    except (OSError, ValueError) as error:
        raise NotEnrolledError(
            f"{path} cannot be read ({error}): enrol this device anew"
        ) from error
    return replace(
        identity, gateway=settings.gateway or identity.gateway, mqtt=settings.mqtt or identity.mqtt
    )


def connection(folders: Folders, identity: Identity) -> Connection:
    """How workers reach the gateway."""
    return Connection(
        gateway=identity.gateway,
        ca=str(folders.keys / "ca.crt"),
        certificate=str(folders.keys / "device.crt"),
        key=str(folders.keys / "device.key"),
    )


def renew_from_unix(folders: Folders, identity: Identity) -> float:
    """When the certificate should be renewed: in the last third of its life, at most a week."""
    if not identity.expires_unix:
        return float("inf")
    try:
        issued_unix = (folders.keys / "device.crt").stat().st_mtime
    except OSError:
        return float("inf")
    life_s = max(0.0, identity.expires_unix - issued_unix)
    return identity.expires_unix - min(_RENEW_AT_MOST_S, life_s / 3)
