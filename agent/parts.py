"""What a supervisor is made of: the real parts of `agent.build`, or a test's twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.applications import Applications
from agent.config import Settings
from agent.desk import Desk, Folders
from agent.domain.allowance import Metering
from agent.identity import Identity
from agent.journal import Journal
from agent.ladder import Sense
from agent.runner import Runner
from agent.slots import Slots
from agent.transport.link import AgentLink
from agent.watch import FingerprintWatch, SettingsWatch


class Clock(Protocol):
    """Both kinds of time."""

    def monotonic_s(self) -> float:
        """Never goes back; means nothing outside this process."""
        ...

    def wall_unix_s(self) -> float:
        """A hint: device clocks wander."""
        ...


class Driver(Protocol):
    """What may use the one worker."""

    @property
    def running(self) -> bool:
        """Whether it has it."""
        ...

    def pause(self) -> None:
        """Give it back."""
        ...

    def tick(self, desk: Desk) -> bool:
        """Go on; True when something changed that should be reported."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a supervisor is made of; `agent.build` makes the real ones."""

    clock: Clock
    folders: Folders
    identity: Identity
    journal: Journal
    slots: Slots
    runner: Runner
    link: AgentLink
    settings: SettingsWatch
    fingerprint: FingerprintWatch
    boot_id: str
    jitter: Callable[[], float]  # 0..1
    sample: Callable[[str], Mapping[str, float]]
    time_zone: Callable[[Settings], str]
    sense: Sense
    applications: Applications | None = None
    floor_unix: float = 0.0  # of the build: no true clock is before it
    metering: Callable[[str], Metering] = lambda _root: Metering()
    written: Callable[[], int | None] = lambda: None  # bytes, by this process and its workers
