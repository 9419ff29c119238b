"""Bulk over a bad network: a proxy before the product's own gateway, and what comes of it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.jobs import Connection, FetchJob
from agent.workers import fetch
from agent.workers.child import JobError
from controller.artifacts.deltas import Deltas
from controller.artifacts.memory import MemoryBlobs
from controller.artifacts.packing import PackedBundle, pack_into
from controller.gateway.grpc import GrpcServers
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import GatewayService, Stock
from fitment.core import digest
from tests.integration.chaos_proxy import ChaosProxy, Fault, Kind
from tests.integration.gateway_peers import LoopThread, Papers, TwinEngine, TwinFleet
from tests.integration.trust_server import make_bundle

RNG = random.Random(11)
OLD = RNG.randbytes(700_000)
NEW = bytes((b + (RNG.random() < 0.1)) & 255 for b in OLD)
MIDDLE = 400_000
HANDSHAKE = 300


@dataclass
class Place:
    folder: Path
    port: int
    old: PackedBundle
    new: PackedBundle

    def job(self, proxy: ChaosProxy, work: Path, *, delta: bool = False) -> FetchJob:
        connection = Connection(
            gateway=proxy.address, ca=str(self.folder / "ca.crt"),
            certificate=str(self.folder / "device-a.crt"), key=str(self.folder / "device-a.key"),
        )  # fmt: skip
        return FetchJob(
            result="", connection=connection, archive=self.new.archive,
            archive_bytes=self.new.archive_bytes, target=str(work / "x.tar.xz"),
            base=self.old.variant if delta else "", base_folder=str(self.folder / "old"),
            delta=str(work / "x.delta"), rebuilt=str(work / "x.tar"),
            min_rate_bytes_s=100_000.0, stall_window_s=1.0,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("papers")
    papers = Papers.make(folder)
    papers.device("device-a")
    engine, fleet, blobs, loop = TwinEngine(), TwinFleet(papers=papers), MemoryBlobs(), LoopThread()
    packed = [
        pack_into(make_bundle(folder / name, content=content), blobs, folder)
        for name, content in (("old", OLD), ("new", NEW))
    ]
    listed = {p.variant: p.archive for p in packed}
    gateway = GatewayService(
        engine, fleet, sessions=None, ca_pem=b"",
        stock=Stock(blobs=blobs, read_metadata=lambda _: None,
                    deltas=Deltas(folder / "deltas", blobs, listed.get)),
    )  # fmt: skip
    welcome = Welcome(
        ca_pem=b"", tuf_root=b"", director_public_key=b"", director_key_id="", gateway_address="",
        mqtt_address="",
    )  # fmt: skip

    async def begin() -> GrpcServers:
        servers = GrpcServers("127.0.0.1", papers.server_files())
        servers.bind(enroll_port=0, gateway_port=0)
        enroll = EnrollService(engine, fleet, welcome=welcome)
        await servers.start(engine, fleet, enroll=enroll, gateway=gateway)
        return servers

    servers = loop.run(begin())
    yield Place(folder, servers.gateway_port, *packed)
    loop.run(servers.stop())
    loop.stop()
    engine.stop()


def test_an_untouched_line(place: Place, tmp_path: Path) -> None:
    with ChaosProxy(place.port) as proxy:
        result = fetch.handle(place.job(proxy, tmp_path))
    assert result.wire_bytes == place.new.archive_bytes
    assert result.wire_bytes < proxy.to_client < 1.1 * result.wire_bytes
    assert proxy.connections == 1


def test_what_a_delta_costs_on_the_wire(place: Place, tmp_path: Path) -> None:
    """All bytes to the device, handshakes and TLS included, are told as they are, about."""
    with ChaosProxy(place.port) as proxy:
        result = fetch.handle(place.job(proxy, tmp_path, delta=True))
    assert result.delta_base == place.old.variant
    assert result.wire_bytes < 0.15 * place.new.archive_bytes
    assert result.wire_bytes < proxy.to_client < result.wire_bytes + 20_000


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.CUT, "unavailable"),
        (Kind.TRUNCATE, "unavailable"),
        (Kind.CORRUPT, "unavailable"),  # TLS finds it, and ends the connection
        (Kind.DUPLICATE, "unavailable"),  # the same
        (Kind.STALL, "stalled"),
    ],
)
@pytest.mark.parametrize("delta", [False, True], ids=["whole", "delta"])
def test_a_line_that_breaks_in_the_middle(
    place: Place, tmp_path: Path, kind: Kind, code: str, *, delta: bool
) -> None:
    """It fails in a way that is tried again, keeps whole chunks, and goes on at the byte."""
    at = 40_000 if delta else MIDDLE
    with ChaosProxy(place.port, Fault(kind=kind, at=at)) as proxy:
        job = place.job(proxy, tmp_path, delta=delta)
        started = time.monotonic()
        with pytest.raises(JobError) as caught:
            fetch.handle(job)
        assert time.monotonic() - started < 10
        assert (caught.value.code, caught.value.permanent) == (code, False), caught.value.message
        result = fetch.handle(job)
    assert bool(result.delta_base) is delta
    assert result.resumed_from < at
    if kind is Kind.STALL and not delta:  # elsewhere gRPC may drop what had come in time
        assert result.resumed_from > 0
    if not delta:
        assert digest.digest_bytes(Path(job.target).read_bytes()) == place.new.archive


@pytest.mark.parametrize("kind", [Kind.CUT, Kind.TRUNCATE, Kind.CORRUPT])
def test_a_line_that_breaks_in_the_handshake(place: Place, tmp_path: Path, kind: Kind) -> None:
    with ChaosProxy(place.port, Fault(kind=kind, at=HANDSHAKE)) as proxy:
        # The library itself connects again a second later; a stall would be seen before that.
        job = replace(place.job(proxy, tmp_path), stall_window_s=5.0)
        with pytest.raises(JobError) as caught:
            fetch.handle(job)
        assert (caught.value.code, caught.value.permanent) == ("unavailable", False)
        assert fetch.handle(job).resumed_from == 0


@pytest.mark.parametrize(("rate", "code"), [(20_000.0, "stalled"), (1_000_000.0, "")])
def test_a_slow_line_is_left_only_below_the_minimum_rate(
    place: Place, tmp_path: Path, rate: float, code: str
) -> None:
    with ChaosProxy(place.port, Fault(kind=Kind.SLOW, at=MIDDLE, rate=rate)) as proxy:
        job = place.job(proxy, tmp_path)
        if not code:
            assert fetch.handle(job).resumed_from == 0
            return
        with pytest.raises(JobError) as caught:
            fetch.handle(job)
        assert caught.value.code == code
        proxy.fault = None
        assert fetch.handle(job).resumed_from > 0
