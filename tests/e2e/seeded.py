"""A fleet of real processes whose fits are done beforehand, so that a test is about the rest.

`seed` puts models with finished fits, signed bundles and their blobs into a new data directory;
`Fleet` runs a controller on it and as many agents as are asked for.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from agent import status
from agent.config import Settings
from agent.desk import Folders
from agent.domain.record import SlotFacts
from agent.errors import AgentError
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.packing import bundle_ref, pack_into
from controller.cli.common import connect
from controller.client import Client
from controller.domain import fleet
from controller.errors import Temporary, UserError
from controller.store import open_store
from controller.testing import variant
from controller.trust import Trust
from fitment.core.deployment import BundleRef
from tests.e2e.processes import call, environment, start, stop, wait_for
from tests.integration.worker_models import affine_bundle, affine_models

PROFILE = "generic-x86_64"
SLOT = "affine"
HARMLESS = {"latency_ratio_max": None}
"""A gate for models that take microseconds."""


def seed(data: Path, work: Path, names: tuple[str, ...]) -> dict[str, fleet.Variant]:
    """One model version a name, each with its fit done, in a new data directory or one at rest."""
    offline, hosts = data / "offline", ["127.0.0.1"]
    new = not (data / "trust").exists()
    trust = (
        Trust.create(data / "trust", offline, hosts) if new else Trust.open(data / "trust", offline)
    )
    blobs = FolderBlobs(data / "blobs")
    with closing(open_store(f"sqlite:///{data / 'fitment.db'}", "default")) as store:
        made = {}
        for number, name in enumerate(names, 1 + len(store.models.find())):
            ref = _bundle(work, blobs, trust, name)
            made[name] = _variant(name, ref)
            store.models.add(_model(data, name, number))
            store.jobs.add(_fit(data, made[name]))
    return made


def _bundle(work: Path, blobs: FolderBlobs, trust: Trust, name: str) -> BundleRef:
    folder = work / "bundles" / name
    affine_bundle(folder, dataclasses.replace(affine_models()[0], name=name))
    ref = bundle_ref(pack_into(folder, blobs, work), name)
    trust.repository.add_bundles([(ref.target, blobs.path(ref.archive))])
    return ref


def _variant(name: str, ref: BundleRef) -> fleet.Variant:
    # Of so small a model every answer is right, and no figure of agreement means anything.
    like = variant(name, 1.0, model=name)
    return dataclasses.replace(like, bundle=ref, guard_agreement=0.0)


def _model(data: Path, name: str, number: int) -> fleet.ModelVersion:
    return fleet.ModelVersion(
        id=name, name=SLOT, version=str(number), digest=f"sha256:{name}",
        registered_at=float(number), snapshot=str(data / "models" / name),
        budget=fleet.Budget(agreement_min=0.0),
    )  # fmt: skip


def _fit(data: Path, made: fleet.Variant) -> fleet.FitJob:
    choice = fleet.Choice(chosen=made.bundle.variant, reason="it is the only one")
    return fleet.FitJob(
        id=f"fit-{made.name}", model=made.model, status=fleet.JobStatus.DONE, created_at=1.0,
        cohort=fleet.Cohort(profile=PROFILE, hardware="sha256:h", stack="sha256:s"),
        finished_at=2.0, variants=(made,), choice=choice, folder=str(data / "jobs" / made.name),
    )  # fmt: skip


class Fleet:
    """A controller and its agents."""

    def __init__(self, folder: Path, data: Path, **settings: str) -> None:
        self.folder, self.data = folder, data
        more = {"FITMENT_OPTIMISE": "false", "FITMENT_AUTO_APPROVE": "true"}
        self.env = environment(data) | more | settings
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self._controller: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = connect("", self.data)
        return self._client

    def start(self, data: Path | None = None) -> None:
        """Start the controller, maybe on another directory; the ports stay."""
        self.data = data or self.data
        self.env["FITMENT_DATA_DIR"] = str(self.data)
        log = self.folder / "controller.log"
        self._controller = start(["controller", "serve"], log, self.env)
        where = wait_for("serving", lambda: self._where(log), every_s=0.05)
        for name in ("enroll", "gateway", "mqtt", "rest"):
            port = where[name].rpartition(":")[2]
            self.env[f"FITMENT_{name.upper()}_PORT"] = port or "0"

    def _where(self, log: Path) -> dict[str, Any] | None:
        process = self._controller
        assert process is not None
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.data / "controller.json").read_text())
            return found if found["pid"] == process.pid else None
        return None

    def kill(self) -> None:
        """As a power loss does."""
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()
        if self._client is not None:
            self._client.close()
        self._client = None

    def join(self, name: str) -> None:
        """Enrol a device and start its agent."""
        edge = self.folder / name
        edge.mkdir()
        (edge / "config.toml").write_text(
            '[agent]\nfingerprint_interval_s = 1.0\n[runtime]\nenabled = ["onnx"]\n'
        )
        token = self.client.create_token()
        call(
            self.env, "agent", "enroll", "--controller", token.enroll, "--token", token.text,
            "--device", name, "--data-dir", str(edge),
        )  # fmt: skip
        command = ["agent", "run", "--data-dir", str(edge)]
        self.agents[name] = start(command, self.folder / f"{name}.log", self.env)

    def close(self) -> None:
        for agent in self.agents.values():
            stop(agent)
        if self._client is not None:
            self._client.close()
        if self._controller is not None and self._controller.poll() is None:
            stop(self._controller)

    def wait(self, what: str, look: Callable[[], Any]) -> Any:
        """Until ``look`` says something; while nobody answers it says nothing."""

        def sees() -> Any:
            try:
                return look()
            except (UserError, Temporary, AgentError):
                return None

        return wait_for(what, sees, every_s=0.05)

    def roll_out(self, model: str, *, wait: bool = True) -> tuple[fleet.Release, str]:
        """Release a model version to the whole fleet at once."""
        release = self.client.create_release(model)
        made = self.client.create_rollout(release.id, waves=[1.0], gate=HARMLESS).rollout
        if wait:
            self.wait("a rollout's end", lambda: self.state(made.id) == "completed")
        return release, made.id

    def state(self, rollout: str) -> str:
        return self.client.rollout(rollout).rollout.state.value

    def on_disk(self, name: str) -> SlotFacts:
        """What a device's own journal says of its slot, whatever its controller believes."""
        slots = status.read(Folders(data_dir=self.folder / name), Settings()).slots
        return slots[0] if slots else SlotFacts(slot=SLOT)

    def ends_on_disk(self, name: str) -> list[str]:
        """How its deployments ended, newest first, by its own journal."""
        found = status.read(Folders(data_dir=self.folder / name), Settings()).deployments
        return [report.outcome.value if report.outcome else "" for report in found]

    def known(self) -> bool:
        """Whether every device has its profile and is online."""
        devices = self.client.devices()
        return len(devices) == len(self.agents) and all(d.profile and d.online for d in devices)


def pause(seconds: float) -> None:
    """Give what must not happen the time to happen."""
    time.sleep(seconds)
