"""Tells systemd that the agent runs: datagrams to ``NOTIFY_SOCKET``, as sd_notify(3) describes.

Only the supervisor's loop calls it, after a round. A step that hangs sends nothing, and the unit's
``WatchdogSec`` then starts the agent anew; a disk that refuses is a round like any other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

_SHARE: Final = 4  # signs of life in the time after which systemd gives up; it advises two or more


class Notifier:
    """Says READY once, then WATCHDOG, no more often than is of use."""

    def __init__(
        self, address: str, *, every_s: float | None, monotonic_s: Callable[[], float]
    ) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = every_s  # None: nobody watches
        self._monotonic_s = monotonic_s
        self._said_s: float | None = None

    def __call__(self) -> None:
        """The loop went round once more."""
        now_s, first = self._monotonic_s(), self._said_s is None
        due = self._every_s is not None and now_s - (self._said_s or 0.0) >= self._every_s
        if not first and not due:
            return
        words = ["READY=1"] * first + ["WATCHDOG=1"] * (self._every_s is not None)
        if self._send("\n".join(words)):
            self._said_s = now_s

    def _send(self, words: str) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(0)  # a systemd that is busy must not hold the loop up
                line.sendto(words.encode(), self._address)
        except OSError:
            return False  # said again after the next round
        return True


def from_environment(
    environment: MutableMapping[str, str], monotonic_s: Callable[[], float]
) -> Callable[[], None]:
    """A notifier where systemd asks for one. Takes its variables away: workers are not asked."""
    address = environment.pop("NOTIFY_SOCKET", "")
    limit_us = environment.pop("WATCHDOG_USEC", "")
    watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if not address:
        return lambda: None
    every_s = int(limit_us) / 1e6 / _SHARE if limit_us.isdigit() and watched else None
    return Notifier(address, every_s=every_s, monotonic_s=monotonic_s)
