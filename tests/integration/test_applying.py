"""Enrolment by an operator's word: the agent's worker against a real controller over gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.jobs import EnrollJob
from agent.workers import enroll
from agent.workers.child import JobError
from controller.artifacts.memory import MemoryBlobs
from controller.gateway.grpc import GrpcServers, ServerFiles
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import GatewayService, Stock
from controller.reconcile import applying
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.reconcile.engine import Engine
from controller.store import open_store
from controller.testing import ManualClock, ScriptedFits
from controller.trust import Trust
from profiles import all_profiles
from tests.integration.gateway_peers import LoopThread
from tests.integration.trust_server import Controller as OtherController

ALLOWED = ReconcileSettings(enrolment_by_approval=True)


@dataclass
class Stage:
    context: Context
    engine: Engine
    address: str
    keys: Path

    def ask(self, device: str = "cam-1", **changes: str) -> object:
        """What the agent's worker comes to: a result, or why not."""
        job = EnrollJob(
            result="", controller=self.address, token="", device=device, keys=str(self.keys)
        )
        try:
            return enroll.handle(replace(job, **changes))  # type: ignore[arg-type]
        except JobError as error:
            return error


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    trust = Trust.create(tmp_path / "trust", tmp_path / "offline", ["127.0.0.1"])
    context = Context(
        store=open_store("memory://", "default"), trust=trust, blobs=MemoryBlobs(),
        profiles=all_profiles(), fits=ScriptedFits(tmp_path / "fits", ()),
        publish=lambda _name, _down: None, clock=ManualClock(1_800_000_000.0), settings=ALLOWED,
    )  # fmt: skip
    controller = Controller(context)
    engine, loop = Engine(controller, tick_s=5.0), LoopThread()
    engine.start()
    welcome = Welcome(
        ca_pem=trust.ca.certificate_pem, tuf_root=trust.repository.root_bytes(),
        director_public_key=trust.director.public_raw, director_key_id=trust.director.key_id,
        gateway_address="127.0.0.1:1", mqtt_address="",
    )  # fmt: skip
    stock = Stock(blobs=context.blobs, read_metadata=trust.repository.read)
    gateway = GatewayService(engine, controller, sessions=None, ca_pem=b"", stock=stock)

    async def begin() -> GrpcServers:
        files = trust.files
        made = ServerFiles(key=files.server_key, chain=files.server_certificate, ca=files.ca)
        servers = GrpcServers("127.0.0.1", made)
        servers.bind(enroll_port=0, gateway_port=0)
        asked = EnrollService(engine, controller, welcome=welcome)
        await servers.start(engine, controller, enroll=asked, gateway=gateway)
        return servers

    servers = loop.run(begin())
    yield Stage(context, engine, f"127.0.0.1:{servers.enroll_port}", tmp_path / "device" / "keys")
    loop.run(servers.stop())
    loop.stop()
    engine.stop()
    controller.close()


def test_a_device_waits_and_comes_in_when_its_code_was_compared(stage: Stage) -> None:
    first = stage.ask()
    assert isinstance(first, JobError)
    assert (first.code, first.permanent, first.retry_after_s) == ("pending", False, 5.0)
    (waiting,) = applying.waiting(stage.context)
    assert f"with the code {waiting.code};" in first.message, "both sides show the same"
    assert not (stage.keys / "enrolment.json").exists()
    applying.approve(stage.context, "cam-1", waiting.code, {"site": "lab"})
    result = stage.ask()
    assert not isinstance(result, JobError), result
    record = json.loads((stage.keys / "enrolment.json").read_bytes())
    assert (record["device"], record["enroll"]) == ("cam-1", stage.address)
    assert not (stage.keys / "applying.json").exists()
    device = stage.context.store.devices.get("cam-1")
    assert device is not None
    assert device.labels == {"site": "lab"}


def test_another_controller_in_between_is_noticed(stage: Stage, tmp_path: Path) -> None:
    """The device keeps to the authority whose code it showed."""
    assert isinstance(stage.ask(), JobError)
    impostor = OtherController(tmp_path / "impostor")
    try:
        record = stage.keys / "applying.json"
        asked = json.loads(record.read_bytes())
        record.write_text(json.dumps({**asked, "controller": impostor.enroll_address}))
        refused = stage.ask(controller=impostor.enroll_address)
    finally:
        impostor.stop()
    assert isinstance(refused, JobError)
    assert (refused.code, refused.permanent) == ("wrong_ca", True)
    assert "another controller answers" in refused.message


def test_a_refused_one_and_an_older_controller_say_so(stage: Stage, tmp_path: Path) -> None:
    stage.ask()
    applying.reject(stage.context, "cam-1")
    refused = stage.ask()
    assert isinstance(refused, JobError)
    assert (refused.code, refused.permanent) == ("refused", True)
    old = OtherController(tmp_path / "old")  # it has no such call
    try:
        answer = stage.ask(controller=old.enroll_address)
    finally:
        old.stop()
    assert isinstance(answer, JobError)
    assert (answer.code, answer.permanent) == ("unsupported", True)
    assert "fitment token create" in answer.message
