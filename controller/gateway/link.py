"""The link's seam: small and frequent messages between the controller and its devices.

Three implementations pass one contract suite: `mqtt` (a broker), `session` (gRPC streams on
the gateway) and `memory` (the twin for tests). Constraints they keep:

- `LinkHandler` methods come on a thread of the link and must return soon; what they start goes
  on elsewhere.
- `publish` may be called from any thread and never waits for the device. A desired state
  replaces an older one that was not delivered yet; commands and acks may be lost with the
  connection, and whoever needs them sends them again.
- `on_online` comes when a device begins to listen; the handler answers with the desired state.
- nothing that a device sends stops the link: what cannot be read is logged and dropped.
"""

from __future__ import annotations

from typing import Protocol

from fitment.core.link import Downlink, Uplink
from fitment.wire import topics


class LinkHandler(Protocol):
    """Whom a link tells what happens."""

    def on_up(self, device: str, uplink: Uplink) -> None:
        """A device sent something, its presence included."""
        ...

    def on_online(self, device: str) -> None:
        """A device listens now; it has missed whatever was sent before."""
        ...

    def on_offline(self, device: str) -> None:
        """A device is gone."""
        ...


class Link(Protocol):
    """One way to reach devices."""

    def start(self, handler: LinkHandler) -> None:
        """Begin to receive."""
        ...

    def publish(self, device: str, downlink: Downlink) -> None:
        """Send to one device, or keep the desired state for it."""
        ...

    def evict(self, device: str) -> None:
        """End what a revoked device has open."""
        ...

    def stop(self) -> None:
        """End all of it; safe to call twice."""
        ...

    def is_up(self) -> bool:
        """Whether devices can be heard now."""
        ...

    def describe(self) -> str:
        """One line for people: what it is and where."""
        ...


def field_of(message: Uplink | Downlink) -> str:
    """Name of the one field that is set.

    Raises:
        ValueError: none or several are set.
    """
    fields = topics.UP if isinstance(message, Uplink) else topics.DOWN
    present = [name for name in fields if getattr(message, name) is not None]
    if len(present) != 1:
        raise ValueError(f"exactly one of {', '.join(fields)} must be set, not {len(present)}")
    return present[0]
