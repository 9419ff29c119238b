"""A real controller on a real engine behind real REST, and devices that are twins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controller.artifacts.memory import MemoryBlobs
from controller.domain import fleet
from controller.gateway.http.api import Api
from controller.gateway.http.app import make_app
from controller.gateway.http.server import RestServer
from controller.gateway.views import Addresses
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.reconcile.engine import Engine
from controller.store import open_store
from controller.testing import ScriptedFits, TwinDevice, variant
from controller.trust import Trust
from fitment.core.link import Downlink
from profiles import all_profiles
from tests.integration.gateway_peers import LoopThread, wait_for

TOKEN = "operator-token"
METRICS_TOKEN = "metrics-token"
NOW = 1_800_000_000.0
ADDRESSES = Addresses(
    rest="", enroll="127.0.0.1:1", gateway="127.0.0.1:2", mqtt="", link="grpc", pid=1, version="0",
    notes=("a note",),
)  # fmt: skip


@dataclass
class Stage:
    """A controller behind REST, and its devices."""

    url: str
    folder: Path
    engine: Engine
    controller: Controller
    devices: dict[str, TwinDevice] = field(default_factory=dict)
    looks: list[frozenset[str]] = field(default_factory=list)

    def join(self, name: str) -> TwinDevice:
        def act() -> TwinDevice:
            record = fleet.Device(name=name, enrolled_at=1.0, serial="1", serials=("1",))
            self.controller.store.devices.put(record)
            twin = TwinDevice(
                name=name, controller=self.controller, times_ms={"fp32": 1.0, "int8": 0.3}
            )
            self.devices[name] = twin
            twin.connect()
            return twin

        return self.engine.call(act).result(5)

    def until(self, done: Callable[[], bool]) -> None:
        def turn() -> None:
            for device in self.devices.values():
                device.step()

        def looked() -> bool:
            self.engine.call(turn).result(5)
            return done()

        assert wait_for(looked)


@contextlib.contextmanager
def staged(trust: Trust, tmp_path: Path) -> Iterator[Stage]:
    """A stage; all of it is ended on leaving."""
    devices: dict[str, TwinDevice] = {}

    def publish(name: str, downlink: Downlink) -> None:
        if name in devices:
            devices[name].receive(downlink)

    fits = ScriptedFits(tmp_path / "fits", (variant("fp32", 1.0), variant("int8", 0.4, drop=0.001)))
    context = Context(
        store=open_store("memory://", "default"), trust=trust, blobs=MemoryBlobs(),
        profiles=all_profiles(), fits=fits, publish=publish, clock=lambda: NOW,
        settings=ReconcileSettings(),
    )  # fmt: skip
    controller = Controller(context)
    engine = Engine(controller, tick_s=0.02)
    engine.start()
    loop = LoopThread()
    rest = RestServer("127.0.0.1", 0)
    made = Stage(f"http://127.0.0.1:{rest.port}", tmp_path, engine, controller, devices)

    def shut_out() -> None:
        found = engine.call(lambda: controller.store.devices.find(revoked=True)).result(5)
        made.looks.append(frozenset(device.name for device in found))

    api = Api(
        controller=controller, engine=engine, addresses=ADDRESSES, link="gRPC session",
        data_dir=tmp_path, link_up=lambda: True, shut_out=shut_out,
    )  # fmt: skip
    loop.run(rest.start(make_app(api, TOKEN, METRICS_TOKEN)))
    yield made
    loop.run(rest.stop())
    loop.stop()
    engine.stop()
    controller.close()
