"""Watches what may change below a running agent: its settings file and the device itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.config import Settings
from agent.errors import ConfigError
from agent.hardware import BoardError, Debouncer
from fitment.core.fingerprint import Fingerprint

log = logging.getLogger(__name__)

CONFIRM_S: Final = 1.0
"""A change is looked at again this soon; it counts when it is still there."""

ReadFingerprint = Callable[[Settings], Fingerprint]


class SettingsWatch:
    """Reads the file anew when it was written to. A broken file changes nothing but a note."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], path: Path) -> None:
        self.settings = settings
        self.problem = ""
        self._load = load
        self._path = path
        self._seen = self._stamp()

    def tick(self) -> bool:
        """Whether something changed, the note included."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.settings, self.problem = self._load(), ""
        except ConfigError as error:
            self.problem = f"the settings were not taken: {error}"
        log.info("action=settings_read problem=%s", self.problem)
        return True

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size)


class FingerprintWatch:
    """Reads the fingerprint now and then; a change counts when two looks in a row saw it."""

    def __init__(self, read: ReadFingerprint) -> None:
        self.problem = ""
        self._read = read
        self._debouncer = Debouncer()
        self._next_s = 0.0

    @property
    def fingerprint(self) -> Fingerprint | None:
        """What counts as this device; None before the first look that succeeded."""
        return self._debouncer.accepted

    def soon(self) -> None:
        """Look with the next `tick`."""
        self._next_s = 0.0

    def tick(self, settings: Settings, now_s: float) -> bool:
        """Look when it is time. Returns whether the fingerprint, or the note, changed."""
        if now_s < self._next_s:
            return False
        before = (self._debouncer.accepted, self.problem)
        try:
            self._debouncer = self._debouncer.observe(self._read(settings))
            self.problem = ""
        except BoardError as error:
            self.problem = f"the fingerprint cannot be read: {error}"
        pending = self._debouncer.candidate is not None
        interval_s = settings.fingerprint_interval_s
        self._next_s = now_s + (min(CONFIRM_S, interval_s) if pending else interval_s)
        return before != (self._debouncer.accepted, self.problem)
