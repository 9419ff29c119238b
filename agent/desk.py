"""What actions find on their desk: settings, folders and stores, as they are at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.applications import Applications
from agent.jobs import Connection, Limits, Setting
from agent.journal import Journal
from agent.ledger import Ledger
from agent.slots import Slots
from fitment.core import digest
from fitment.core.deployment import BundleRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The data directory."""

    data_dir: Path

    @property
    def config(self) -> Path:
        return self.data_dir / "config.toml"

    @property
    def journal(self) -> Path:
        return self.data_dir / "journal.db"

    @property
    def slots(self) -> Path:
        return self.data_dir / "slots"

    @property
    def keys(self) -> Path:
        return self.data_dir / "keys"

    @property
    def metadata(self) -> Path:
        """What the metadata client trusts; it belongs to the device's identity, not to work."""
        return self.keys / "metadata"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def serving(self) -> Path:
        """The sockets of slots that are served."""
        return self.data_dir / "serve"

    @property
    def work(self) -> Path:
        return self.data_dir / "work"

    @property
    def jobs(self) -> Path:
        return self.work / "jobs"

    def archive(self, bundle: BundleRef) -> Path:
        """Where a transport file is received; the same file for the same bytes."""
        return self.work / "archives" / f"{digest.hex_of(bundle.archive)}.tar.xz"

    def rebuilt(self, bundle: BundleRef) -> Path:
        """Where a transport file's tar is rebuilt from a delta; it is there only when whole."""
        return self.work / "archives" / f"{digest.hex_of(bundle.archive)}.tar"

    def delta(self, bundle: BundleRef) -> Path:
        """Where a delta for a transport file is received."""
        return self.work / "archives" / f"{digest.hex_of(bundle.archive)}.delta"

    def lied(self, bundle: BundleRef) -> Path:
        """A mark that mirrors sent other bytes than were signed."""
        return self.work / "archives" / f"{digest.hex_of(bundle.archive)}.lied"

    def study(self, study: str) -> Path:
        """Where a study's bundle is unpacked."""
        return self.work / "studies" / study


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Made anew for each look at the world, so nothing here is older than that."""

    device: str
    folders: Folders
    connection: Connection
    slots: Slots
    journal: Journal
    setting: Setting
    ledger: Ledger
    now_s: float  # monotonic
    floor_unix: float = 0.0  # latest trusted time
    wall_unix: float = 0.0  # what the clock says, right or not
    runtimes: tuple[str, ...] = ()  # that this device may use
    samples: Mapping[str, Path] = field(default_factory=dict)  # slot -> folder
    limits: Limits = field(default_factory=Limits)  # of workers that load a model
    sockets: Path | None = None  # of servers and applications; None: there are none
    servers: Mapping[str, float] = field(default_factory=dict)  # slot -> its socket was seen, s
    applications: Applications | None = None  # that load models by themselves
    takeover_s: float = 60.0  # in which they have to take a variant on trial over

    @property
    def threads(self) -> int:
        """For the thread variables of workers."""
        return self.setting.options.threads

    @property
    def stack(self) -> str:
        """Stack hash now."""
        return self.setting.stack
