"""The link's twin: the same promises without a wire."""

from __future__ import annotations

import threading
from collections.abc import Callable

from controller.gateway.link import LinkHandler, field_of
from fitment.core.link import Downlink, Uplink

Receive = Callable[[Downlink], None]


class MemoryLink:
    """Devices are callables; everything is delivered before the call returns."""

    def __init__(self) -> None:
        self._handler: LinkHandler | None = None
        self._devices: dict[str, Receive] = {}
        self._lock = threading.RLock()

    def start(self, handler: LinkHandler) -> None:
        self._handler = handler

    def publish(self, device: str, downlink: Downlink) -> None:
        field_of(downlink)
        with self._lock:
            receive = self._devices.get(device)
        if receive is not None:
            receive(downlink)

    def evict(self, device: str) -> None:
        self.disconnect(device)

    def stop(self) -> None:
        with self._lock:
            self._devices.clear()
        self._handler = None

    def is_up(self) -> bool:
        return self._handler is not None

    def describe(self) -> str:
        return "in memory"

    def connect(self, device: str, receive: Receive) -> None:
        """A device begins to listen."""
        with self._lock:
            self._devices[device] = receive
        if self._handler is not None:
            self._handler.on_online(device)

    def send(self, device: str, uplink: Uplink) -> None:
        """A device sends."""
        field_of(uplink)
        if self._handler is not None:
            self._handler.on_up(device, uplink)

    def disconnect(self, device: str) -> None:
        """A device is gone."""
        with self._lock:
            known = self._devices.pop(device, None)
        if known is not None and self._handler is not None:
            self._handler.on_offline(device)
