"""Between the link's threads and the engine's: messages in, answers out, nobody waits."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable
from typing import Any, Protocol

from controller.gateway.link import Link
from controller.gateway.ports import Engine
from fitment.core.link import Downlink, Uplink

log = logging.getLogger(__name__)


class Listener(Protocol):
    """The part of the controller that a link talks to."""

    def on_uplink(self, device: str, uplink: Uplink) -> tuple[Downlink, ...]: ...
    def on_link_up(self, device: str) -> None: ...
    def on_link_down(self, device: str) -> None: ...


class Bridge:
    """A `LinkHandler` that hands everything to the engine, in order."""

    def __init__(self, engine: Engine, listener: Listener, link: Link) -> None:
        self._engine = engine
        self._listener = listener
        self._link = link

    def on_up(self, device: str, uplink: Uplink) -> None:
        self._call(device, lambda: self._answer(device, uplink))

    def on_online(self, device: str) -> None:
        self._call(device, lambda: self._listener.on_link_up(device))

    def on_offline(self, device: str) -> None:
        self._call(device, lambda: self._listener.on_link_down(device))

    def _answer(self, device: str, uplink: Uplink) -> None:
        for downlink in self._listener.on_uplink(device, uplink):
            self._link.publish(device, downlink)

    def _call(self, device: str, act: Callable[[], None]) -> None:
        def ended(future: concurrent.futures.Future[Any]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                log.error("action=uplink_failed device=%s", device, exc_info=error)

        self._engine.call(act).add_done_callback(ended)
