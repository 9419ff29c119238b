"""A data directory with a history: two twins, a fit, a rollout that ended, one that waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller.artifacts.blobs import FolderBlobs
from controller.build import DATABASE_NAME, open_trust
from controller.config import Settings
from controller.domain import fleet
from controller.reconcile import keepsakes
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.reconcile.rolling import RolloutPlan
from controller.store import open_store
from controller.testing import ScriptedFits, TwinDevice, fingerprint, variant
from fitment.core.deployment import AllowanceReport
from fitment.core.link import Downlink
from fitment.core.telemetry import Column, TelemetryBatch
from profiles import all_profiles
from tests.unit.controller.reconcile.test_enrolment import new_key, request

TIMES_MS = {"fp32": 1.0, "int8": 0.3}


@dataclass(frozen=True)
class History:
    """What was made."""

    model: str
    done: str  # rollout
    waiting: str  # rollout; its devices are away
    fit: str
    release: str  # that waits


def fill(data_dir: Path) -> History:
    """Live through it, and close the store again."""
    data_dir.mkdir(parents=True, exist_ok=True)
    twins: dict[str, TwinDevice] = {}

    def publish(name: str, downlink: Downlink) -> None:
        if name in twins:
            twins[name].receive(downlink)

    variants = (variant("fp32", 1.0), variant("int8", 0.4, drop=0.001))
    context = Context(
        store=open_store(f"sqlite:///{data_dir.resolve() / DATABASE_NAME}", "default"),
        trust=open_trust(Settings(data_dir=data_dir))[0],
        blobs=FolderBlobs(data_dir.resolve() / "blobs"), profiles=all_profiles(),
        fits=ScriptedFits(data_dir / "scripted", variants), publish=publish, clock=time.time,
        settings=ReconcileSettings(auto_approve=True, enrolment_by_approval=True),
    )  # fmt: skip
    controller = Controller(context)
    for name, emulated in (("edge-1", False), ("stand-in", True)):
        twins[name] = _join(controller, name, emulated=emulated)
    for name in ("door-7", "door-8"):
        controller.apply(name, request(new_key()))
    made = _live(controller, twins)
    controller.close()
    return made


def _join(controller: Controller, name: str, *, emulated: bool) -> TwinDevice:
    record = fleet.Device(name=name, enrolled_at=time.time(), serial="1", serials=("1",))
    controller.store.devices.put(record)
    used = AllowanceReport(
        transferred_bytes=1_500_000, transfer_bytes_per_month=10_000_000, metered=True,
        metered_why="its modem",
    )  # fmt: skip
    twin = TwinDevice(
        name=name, controller=controller, times_ms=TIMES_MS, allowance=used,
        seen=fingerprint(emulated=emulated),
    )  # fmt: skip
    twin.connect()
    return twin


def _live(controller: Controller, twins: dict[str, TwinDevice]) -> History:
    model = fleet.ModelVersion(
        id="model-1", name="m", version="1", digest="sha256:m", snapshot="/none",
        registered_at=time.time(), budget=fleet.Budget(accuracy_drop_max=0.01),
    )  # fmt: skip
    controller.register_model(model)
    (job,) = controller.start_fits(model.id)
    _turn(controller, twins, lambda: controller.store.jobs.find(status=fleet.JobStatus.DONE))
    release = controller.create_release(model.id)
    done = controller.create_rollout(release.id, RolloutPlan(waves=(0.5, 1.0)))
    ended = fleet.RolloutState.COMPLETED
    _turn(controller, twins, lambda: controller.store.rollouts.find(state=ended))
    batch = TelemetryBatch(
        outbox="o", sequence=1, first_available=1, boot_id="b", monotonic_ns=(1, 2, 3),
        wall_unix_ns=tuple(int((time.time() - back) * 1e9) for back in (20, 10, 0)),
        columns={"temperature_c": Column(values=(40.0, 42.5, 41.0))},
    )  # fmt: skip
    controller.store.telemetry.ingest("edge-1", batch)
    keepsakes.note(controller.context, "edge-1", "blew the fan clean")
    controller.post_labels("edge-1", [
        {"id": str(n), "time": time.time(), "correct": n > 0, "slice": "night" if n < 4 else ""}
        for n in range(10)
    ])  # fmt: skip
    for twin in twins.values():
        twin.disconnect()
    again = controller.create_release(model.id)
    waiting = controller.create_rollout(again.id, RolloutPlan())
    return History(model=model.id, done=done.id, waiting=waiting.id, fit=job.id, release=again.id)


def _turn(controller: Controller, twins: dict[str, TwinDevice], done: Callable[[], object]) -> None:
    for _ in range(40):
        controller.tick()
        for twin in twins.values():
            twin.step()
        if done():
            return
    raise AssertionError("the twins did not get there")
