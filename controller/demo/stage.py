"""What the demo's steps share: folders, processes, the controller's client, and waiting."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from controller.client import Client
from controller.demo.fleet import DeviceSpec
from controller.demo.processes import Crew, DemoFailed
from controller.demo.shifted import ShiftedAccuracy
from controller.domain import fleet, pulled

T = TypeVar("T")
POLL_S = 0.2
MARK = ".fitment-demo"
_FIXED = ("ENROLL", "GATEWAY", "MQTT", "REST")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where the demo keeps its things, below ``--out``."""

    out: Path

    @property
    def controller(self) -> Path:
        return self.out / "controller"

    @property
    def logs(self) -> Path:
        return self.out / "logs"

    @property
    def models(self) -> Path:
        """Model files as the devices run them."""
        return self.out / "models"

    def device(self, spec: DeviceSpec) -> Path:
        return self.out / "devices" / spec.name

    def samples(self, spec: DeviceSpec) -> Path:
        return self.out / "samples" / spec.name


@dataclass(slots=True, kw_only=True)
class Stage:
    """The running demo; each step adds what it found."""

    folders: Folders
    crew: Crew
    say: Say
    deadline_s: float  # monotonic moment after which every wait fails
    client: Client | None = None
    link: str = ""
    model: fleet.ModelVersion | None = None
    jobs: dict[str, fleet.FitJob] = field(default_factory=dict)  # device -> its fit
    rollout: str = ""
    deployments: dict[str, fleet.Deployment] = field(default_factory=dict)  # of that rollout
    running: dict[str, pulled.RunningModel] = field(default_factory=dict)  # after it
    trigger: fleet.Trigger | None = None
    after: dict[str, fleet.Deployment] = field(default_factory=dict)  # of the trigger's rollout
    running_after: dict[str, pulled.RunningModel] = field(default_factory=dict)
    later_jobs: dict[str, fleet.FitJob] = field(default_factory=dict)
    change_s: float | None = None  # from the change to the committed new variant
    shifted: dict[str, ShiftedAccuracy] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)  # supervisors, in bytes

    @property
    def api(self) -> Client:
        """The controller's client.

        Raises:
            DemoFailed: the controller was not started.
        """
        if self.client is None:
            raise DemoFailed("the controller was not started")
        return self.client

    def wait(self, what: str, look: Callable[[], T | None], *, timeout_s: float = 480.0) -> T:
        """Look again and again until there is something; everything must keep running.

        Raises:
            DemoFailed: it did not come in time, or a process ended.
        """
        limit = min(time.monotonic() + timeout_s, self.deadline_s)
        while True:
            self.crew.check()
            found = look()
            if found:
                return found
            if time.monotonic() > limit:
                raise DemoFailed(f"{what} did not happen in time")
            time.sleep(POLL_S)

    def device(self, spec: DeviceSpec) -> fleet.Device:
        """What the controller knows of a device."""
        return self.api.device(spec.name)

    def newest(self, spec: DeviceSpec) -> fleet.Deployment:
        """What a device committed last."""
        return self.after.get(spec.name) or self.deployments[spec.name]


def environment(folders: Folders, link: str) -> dict[str, str]:
    """Of every process: free ports, our folders, one thread, and no settings of the user's."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("FITMENT_")}
    ports = {f"FITMENT_{name}_PORT": "0" for name in _FIXED}
    return {
        **own, **ports, "FITMENT_DATA_DIR": str(folders.controller), "FITMENT_LINK": link,
        "FITMENT_AUTO_APPROVE": "true", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip


def addresses(folders: Folders) -> dict[str, str] | None:
    """Where the controller listens, once it does."""
    path = folders.controller / "controller.json"
    if not path.exists():
        return None
    found: dict[str, str] = json.loads(path.read_text())
    return found
