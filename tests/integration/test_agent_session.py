"""Both ends of the gRPC session together: the agent's link and the controller's gateway."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.transport.link import LinkDown, LinkUp
from agent.transport.session import SessionLink, tls_credentials
from controller.artifacts.memory import MemoryBlobs
from controller.gateway.grpc import GrpcServers
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import GatewayService, Stock
from controller.gateway.session import SessionLink as ControllerLink
from fitment.core.deployment import DesiredState
from fitment.core.link import Downlink, Uplink
from tests.integration.gateway_peers import LoopThread, Papers, TwinEngine, TwinFleet, wait_for


class Handler:
    def __init__(self, link: ControllerLink) -> None:
        self.seen: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.online: list[bool] = []
        self._link = link

    def on_up(self, device: str, uplink: Uplink) -> None:
        self.seen.put((device, uplink))

    def on_online(self, device: str) -> None:
        self.online.append(True)
        self._link.publish(device, Downlink(desired=DesiredState(generation=7)))

    def on_offline(self, device: str) -> None:
        del device
        self.online.append(False)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[SessionLink, Handler, ControllerLink]]:
    papers = Papers.make(tmp_path)
    papers.device("device-a")
    sessions = ControllerLink()
    handler = Handler(sessions)
    sessions.start(handler)
    engine, fleet, loop = TwinEngine(), TwinFleet(), LoopThread()
    welcome = Welcome(
        ca_pem=b"", tuf_root=b"", director_public_key=b"", director_key_id="",
        gateway_address="", mqtt_address="",
    )  # fmt: skip
    gateway = GatewayService(
        engine, fleet, sessions=sessions, ca_pem=b"",
        stock=Stock(blobs=MemoryBlobs(), read_metadata=lambda _: None),
    )  # fmt: skip

    async def begin() -> GrpcServers:
        servers = GrpcServers("127.0.0.1", papers.server_files())
        servers.bind(enroll_port=0, gateway_port=0)
        await servers.start(
            engine, fleet, enroll=EnrollService(engine, fleet, welcome=welcome), gateway=gateway
        )
        return servers

    servers = loop.run(begin())

    def credentials() -> Any:
        names = ("ca.crt", "device-a.crt", "device-a.key")
        ca, certificate, key = ((tmp_path / name).read_bytes() for name in names)
        return tls_credentials(ca, certificate, key)

    link = SessionLink(
        f"127.0.0.1:{servers.gateway_port}", credentials, boot_id="b", jitter_s=0.0,
        retry_base_s=0.2,
    )  # fmt: skip
    yield link, handler, sessions
    link.stop()
    sessions.stop()
    loop.run(servers.stop())
    loop.stop()
    engine.stop()


def test_the_desired_state_answers_the_hello(
    ends: tuple[SessionLink, Handler, ControllerLink],
) -> None:
    link, handler, _ = ends
    link.start()
    heard = [link.events.get(timeout=10), link.events.get(timeout=10)]
    assert LinkUp() in heard
    assert Downlink(desired=DesiredState(generation=7)) in heard
    device, first = handler.seen.get(timeout=10)
    assert device == "device-a"
    assert first.presence is not None
    assert first.presence.online
    link.stop()
    assert wait_for(lambda: handler.online == [True, False])


def test_an_evicted_device_hears_why_and_tries_again(
    ends: tuple[SessionLink, Handler, ControllerLink],
) -> None:
    link, handler, sessions = ends
    link.start()
    assert wait_for(lambda: handler.online == [True])
    sessions.evict("device-a")
    events: list[Any] = []
    while not any(isinstance(event, LinkDown) for event in events):
        events.append(link.events.get(timeout=10))
    assert "revoked" in events[-1].reason
    assert wait_for(lambda: handler.online[-1:] == [True] and len(handler.online) == 3)
