"""MQTT topic grammar: ``fitment/v1/{device}/{up|down}/{kind}``.

A device may write only below its own ``up/`` and read only below its own ``down/``; the
broker's access list says so with the certificate's name, so a name must never hold a
character that MQTT gives a meaning to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "fitment/v1"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one kind of message travels."""

    path: str
    qos: int
    retain: bool


DESIRED = Kind(path="down/desired", qos=1, retain=True)
COMMAND = Kind(path="down/command", qos=1, retain=False)
ACK = Kind(path="down/ack", qos=1, retain=False)
PRESENCE = Kind(path="up/presence", qos=1, retain=True)
REPORTED = Kind(path="up/reported", qos=1, retain=True)
TELEMETRY = Kind(path="up/telemetry", qos=1, retain=False)

DOWN = {"desired": DESIRED, "command": COMMAND, "ack": ACK}
"""Field of `Downlink` to kind."""
UP = {"presence": PRESENCE, "reported": REPORTED, "telemetry": TELEMETRY}
"""Field of `Uplink` to kind."""

ALL_UP = f"{PREFIX}/+/up/#"
"""What a controller subscribes to."""


def valid_device_name(name: str) -> bool:
    """Whether ``name`` may be a device's: ``[A-Za-z0-9_-]``, 1 to 64 characters.

    Controllers are ``ctl.1``, ``ctl.2``: the dot keeps any device from taking such a name.
    """
    return _NAME.match(name) is not None


def topic(device: str, kind: Kind) -> str:
    """Topic of one kind of message of one device.

    Raises:
        ValueError: the device's name could change the meaning of the topic.
    """
    if not valid_device_name(device):
        raise ValueError(f"not a device name: {device!r} (use A-Z a-z 0-9 _ -, at most 64)")
    return f"{PREFIX}/{device}/{kind.path}"


def down_filter(device: str) -> str:
    """What a device subscribes to."""
    return topic(device, Kind(path="down/#", qos=1, retain=False))


def device_of(topic_name: str) -> str | None:
    """Device of an ``up/`` topic, or None when it is none of ours."""
    parts = topic_name.split("/")
    if len(parts) == 5 and "/".join(parts[:2]) == PREFIX and parts[3] == "up":
        return parts[2] if valid_device_name(parts[2]) else None
    return None
