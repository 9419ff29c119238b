"""A controller on a real store and real trust, with twins for devices and the fit side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.artifacts.memory import MemoryBlobs
from controller.domain import fleet
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.store import open_store
from controller.store.base import Store
from controller.testing import ManualClock, ScriptedFits, TwinDevice, variant
from controller.trust import Trust
from fitment.core.link import Downlink
from profiles import all_profiles

VARIANTS = (variant("fp32", 1.0), variant("int8", 0.4, drop=0.004), variant("tiny", 0.2, drop=0.2))
TIMES = {"fp32": 1.0, "int8": 0.3, "tiny": 0.2}
MODEL = fleet.ModelVersion(
    id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none", registered_at=1.0,
    budget=fleet.Budget(accuracy_drop_max=0.01),
)  # fmt: skip


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust.create(folder / "trust", folder / "offline")


@dataclass(slots=True, kw_only=True)
class World:
    """Everything of one test."""

    store: Store
    trust: Trust
    folder: Path
    settings: ReconcileSettings
    variants: Sequence[fleet.Variant] = VARIANTS
    model: fleet.ModelVersion = MODEL
    clock: ManualClock = field(default_factory=ManualClock)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    devices: dict[str, TwinDevice] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    fits: ScriptedFits = field(init=False)
    controller: Controller = field(init=False)

    def start(self) -> None:
        """Begin, or begin again on the same store."""
        self.fits = ScriptedFits(self.folder / "fits", self.variants)
        context = Context(
            store=self.store, trust=self.trust, blobs=self.blobs, profiles=all_profiles(),
            fits=self.fits, publish=self._publish, clock=self.clock, settings=self.settings,
            started_at=self.clock(),
        )  # fmt: skip
        self.controller = Controller(context)
        for device in self.devices.values():
            device.controller = self.controller
            if device.online:
                device.connect()

    def _publish(self, device: str, downlink: Downlink) -> None:
        self.published.append(device)
        if device in self.devices:
            self.devices[device].receive(downlink)

    def join(self, name: str, **changes: object) -> TwinDevice:
        """Enrol a twin and connect it."""
        known = fleet.Device(name=name, enrolled_at=self.clock(), serial="1", serials=("1",))
        self.store.devices.add(known)
        twin = TwinDevice(name=name, controller=self.controller, times_ms=TIMES)
        for key, value in changes.items():
            setattr(twin, key, value)
        self.devices[name] = twin
        twin.connect()
        return twin

    def turn(self, *, seconds: float = 1.0) -> None:
        """One tick, and everybody acts."""
        self.controller.tick()
        for device in self.devices.values():
            device.step()
        self.clock.advance(seconds)

    def until(self, done: Callable[[], bool], *, turns: int = 60) -> None:
        """Turn until something holds."""
        for _ in range(turns):
            if done():
                return
            self.turn()
        pytest.fail("it never came to that")

    def settle(self, turns: int = 25) -> None:
        """Turn until whatever is under way is over."""
        for _ in range(turns):
            self.turn()

    def released(self) -> fleet.Release:
        """Register, fit for everybody, and release what was chosen."""
        self.controller.register_model(self.model)
        jobs = [job.id for job in self.controller.start_fits(self.model.id)]
        self.until(lambda: all(self.job(j).status is fleet.JobStatus.DONE for j in jobs))
        release = self.controller.create_release(self.model.id)
        return self.controller.approve_release(release.id)

    def job(self, job: str) -> fleet.FitJob:
        found = self.store.jobs.get(job)
        assert found is not None
        return found

    def rollout(self, rollout: str) -> fleet.Rollout:
        found = self.store.rollouts.get(rollout)
        assert found is not None
        return found

    def runs(self, device: str) -> str:
        """Name of what a device serves."""
        slot = self.devices[device].slots.get("m")
        return slot.name if slot and slot.variant else ""

    def actions(self) -> list[str]:
        return [entry.action for entry in self.store.audit.find()]


@pytest.fixture
def url() -> str:
    """Where the records are; a module that means the disk has its own."""
    return "memory://"


@pytest.fixture
def world(url: str, tmp_path: Path, trust: Trust) -> Iterator[World]:
    store = open_store(url, "default")
    made = World(
        store=store, trust=trust, folder=tmp_path, settings=ReconcileSettings(auto_approve=True)
    )
    made.start()
    yield made
    made.controller.close()
