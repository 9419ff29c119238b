"""The gRPC services on real servers: identity, policy, bulk, and what errors look like."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.artifacts import deltas, mirrors
from controller.artifacts.memory import MemoryBlobs
from controller.artifacts.packing import PackedBundle, pack_into
from controller.errors import Temporary, UserError
from controller.gateway import grpc_gateway
from controller.gateway.grpc import GrpcServers
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import CHUNK_BYTES, GatewayService, Stock
from controller.gateway.http.server import RestServer
from fitment.core import digest
from fitment.core.deployment import CalibrationMode, CalibrationReport
from fitment.core.kernels import KernelTable
from fitment.core.link import Uplink
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict
from fitment.core.telemetry import Presence
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec
from tests.integration.gateway_peers import (
    LoopThread,
    Papers,
    TwinEngine,
    TwinFleet,
    key_and_csr,
    wait_for,
)
from tests.integration.trust_server import make_bundle

WELCOME = Welcome(
    ca_pem=b"ca", tuf_root=b"root", director_public_key=b"d" * 32, director_key_id="sha256:k",
    gateway_address="127.0.0.1:1", mqtt_address="",
)  # fmt: skip
MIRRORS = mirrors.parse("https://one.example/{folder}/{hex} https://two.example/{hex}?key=k")
METADATA = {"timestamp.json": b"{}", "releases/r.json": b"release"}


@dataclass
class Stage:
    papers: Papers
    fleet: TwinFleet
    blobs: MemoryBlobs
    enroll_port: int
    gateway_port: int
    admitted: list[bool]
    listed: dict[str, str]  # variant -> archive

    def gateway(self, name: str = "device-a") -> gateway_pb2_grpc.GatewayStub:
        self._channel = self.papers.channel(name, self.gateway_port)
        return gateway_pb2_grpc.GatewayStub(self._channel)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("papers")
    papers = Papers.make(folder)
    for name in ("device-a", "device-b"):
        papers.device(name)
    engine, loop = TwinEngine(), LoopThread()
    fleet, blobs = TwinFleet(papers=papers), MemoryBlobs()
    admitted: list[bool] = []
    listed: dict[str, str] = {}
    enroll = EnrollService(engine, fleet, welcome=WELCOME, let_in=lambda: admitted.append(True))
    gateway = GatewayService(
        engine, fleet, sessions=None, ca_pem=b"ca", fetches_max=2,
        stock=Stock(blobs=blobs, read_metadata=METADATA.get, locate=MIRRORS.urls,
                    deltas=deltas.Deltas(folder / "deltas", blobs, listed.get)),
    )  # fmt: skip

    async def begin() -> GrpcServers:
        servers = GrpcServers("127.0.0.1", papers.server_files())
        servers.bind(enroll_port=0, gateway_port=0)
        await servers.start(engine, fleet, enroll=enroll, gateway=gateway)
        return servers

    servers = loop.run(begin())
    yield Stage(papers, fleet, blobs, servers.enroll_port, servers.gateway_port, admitted, listed)
    loop.run(servers.stop())
    loop.stop()
    engine.stop()


def refusal(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, dict[str, str]]:
    trailing = {key: str(value) for key, value in error.value.trailing_metadata() or ()}
    return error.value.code(), trailing


def test_a_token_and_a_request_give_a_certificate_and_the_way(stage: Stage) -> None:
    _key, csr = key_and_csr("ignored")
    with stage.papers.anonymous_channel(stage.enroll_port) as channel:
        stub = gateway_pb2_grpc.EnrollStub(channel)
        request = gateway_pb2.AdmitRequest(token="good", device="device-c", csr_pem=csr)
        answer = stub.Admit(request, timeout=5)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Admit(gateway_pb2.AdmitRequest(token="bad", csr_pem=csr), timeout=5)
    assert answer.device == "device-c"
    assert stage.papers.ca.read_device(answer.certificate_pem)[0] == "device-c"
    assert (answer.ca_pem, answer.tuf_root, answer.director_public_key) == (
        b"ca", b"root", b"d" * 32,
    )  # fmt: skip
    assert (answer.gateway_address, answer.mqtt_address) == ("127.0.0.1:1", "")
    assert stage.admitted == [True]
    status, trailing = refusal(refused)
    assert status is grpc.StatusCode.PERMISSION_DENIED
    assert trailing["fitment-code"] == "untrusted"
    assert refused.value.details() == "this token is not known here"


def test_a_sleeper_recovers_by_its_key(stage: Stage) -> None:
    _key, csr = key_and_csr("device-a")
    with stage.papers.anonymous_channel(stage.enroll_port) as channel:
        stub = gateway_pb2_grpc.EnrollStub(channel)
        request = gateway_pb2.RecoverRequest(device="device-a", csr_pem=csr, proof=b"proof")
        answer = stub.Recover(request, timeout=5)
        request.proof = b"none"
        with pytest.raises(grpc.RpcError) as refused:
            stub.Recover(request, timeout=5)
    assert stage.papers.ca.read_device(answer.certificate_pem)[0] == "device-a"
    assert refusal(refused)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_the_gateway_wants_a_certificate_of_ours(stage: Stage, tmp_path: Path) -> None:
    foreign = Papers.make(tmp_path, "Another authority")
    foreign.device("device-a")
    (tmp_path / "ca.crt").write_bytes((stage.papers.folder / "ca.crt").read_bytes())
    request = gateway_pb2.FetchMetadataRequest(path="timestamp.json")
    strangers = (
        stage.papers.anonymous_channel(stage.gateway_port),
        foreign.channel("device-a", stage.gateway_port),
    )
    for channel in strangers:
        with channel, pytest.raises(grpc.RpcError) as refused:
            gateway_pb2_grpc.GatewayStub(channel).FetchMetadata(request, timeout=5)
        assert refusal(refused)[0] is grpc.StatusCode.UNAVAILABLE  # TLS never came about


def test_a_controller_s_certificate_is_no_device(stage: Stage) -> None:
    request = gateway_pb2.FetchMetadataRequest(path="timestamp.json")
    channel = stage.papers.channel("ctl.1", stage.gateway_port)
    with channel, pytest.raises(grpc.RpcError) as refused:
        gateway_pb2_grpc.GatewayStub(channel).FetchMetadata(request, timeout=5)
    assert refusal(refused)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_revoked_device_is_refused_on_a_connection_that_stands(stage: Stage) -> None:
    request = gateway_pb2.FetchMetadataRequest(path="timestamp.json")
    with stage.papers.channel("device-b", stage.gateway_port) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        assert stub.FetchMetadata(request, timeout=5).data == b"{}"
        stage.fleet.refused.add("device-b")
        with pytest.raises(grpc.RpcError) as refused:
            stub.FetchMetadata(request, timeout=5)
        stage.fleet.refused.clear()
    assert refusal(refused)[0] is grpc.StatusCode.PERMISSION_DENIED
    assert "enrol the device again" in str(refused.value.details())


def test_metadata_is_read_by_name(stage: Stage) -> None:
    stub = stage.gateway()
    request = gateway_pb2.FetchMetadataRequest(path="releases/r.json")
    assert stub.FetchMetadata(request, timeout=5).data == b"release"
    with pytest.raises(grpc.RpcError) as refused:
        stub.FetchMetadata(gateway_pb2.FetchMetadataRequest(path="../ca.key"), timeout=5)
    assert refusal(refused) == (grpc.StatusCode.NOT_FOUND, {"fitment-code": "not_found"})


@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES - 7, 3 * CHUNK_BYTES + 5])
def test_an_artifact_comes_in_chunks_from_an_offset(stage: Stage, offset: int) -> None:
    data = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail!"
    archive = stage.blobs.put_bytes(data)
    parts = list(
        stage.gateway().FetchArtifact(
            gateway_pb2.FetchArtifactRequest(archive=archive, offset=offset), timeout=10
        )
    )
    assert b"".join(part.data for part in parts) == data[offset:]
    assert {part.total_bytes for part in parts} == {len(data)}
    assert all(len(part.data) <= CHUNK_BYTES for part in parts)


@pytest.mark.parametrize(
    ("archive", "offset", "status"),
    [
        (digest.digest_bytes(b"nobody has it"), 0, grpc.StatusCode.NOT_FOUND),
        ("../../etc/passwd", 0, grpc.StatusCode.INVALID_ARGUMENT),
        (digest.digest_bytes(b"small"), 6, grpc.StatusCode.INVALID_ARGUMENT),
        (digest.digest_bytes(b"small"), -1, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_wrong_artifact_is_refused(
    stage: Stage, archive: str, offset: int, status: grpc.StatusCode
) -> None:
    stage.blobs.put_bytes(b"small")
    request = gateway_pb2.FetchArtifactRequest(archive=archive, offset=offset)
    with pytest.raises(grpc.RpcError) as refused:
        list(stage.gateway().FetchArtifact(request, timeout=5))
    assert refusal(refused)[0] is status


def test_too_many_transfers_are_told_when_to_come_again(stage: Stage) -> None:
    archive = stage.blobs.put_bytes(b"x" * (64 * CHUNK_BYTES))
    stub = stage.gateway()
    request = gateway_pb2.FetchArtifactRequest(archive=archive)
    # A transfer that nobody reads is held by flow control and keeps its place.
    held = [stub.FetchArtifact(request, timeout=20) for _ in range(2)]
    assert all(next(transfer).total_bytes for transfer in held)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.FetchArtifact(request, timeout=5))
    status, trailing = refusal(refused)
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert float(trailing["retry-after"]) > 0
    for transfer in held:
        transfer.cancel()
    assert wait_for(lambda: fetched(stub, request) == 64 * CHUNK_BYTES)


def test_a_delta_is_named_once_it_is_made(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to ask does not wait for ever; whoever comes later finds it made."""
    old, new = (packed(stage, tmp_path, text * 3000) for text in (b"weights", b"weighty"))
    go = threading.Event()
    real = deltas.make

    def slow(*arguments: Any) -> Any:
        assert go.wait(10)
        return real(*arguments)

    monkeypatch.setattr(deltas, "make", slow)
    monkeypatch.setattr(grpc_gateway, "DELTA_WAIT_S", 0.2)
    stub = stage.gateway()
    request = gateway_pb2.FindDeltaRequest(archive=new.archive, base=old.variant)
    assert stub.FindDelta(request, timeout=5) == gateway_pb2.FindDeltaResponse()
    go.set()
    assert wait_for(lambda: bool(stub.FindDelta(request, timeout=5).delta))
    named = stub.FindDelta(request, timeout=5)
    assert named.delta_bytes == stage.blobs.size(named.delta) < new.archive_bytes
    unknown = gateway_pb2.FindDeltaRequest(archive=new.archive, base="sha256:" + "0" * 64)
    assert stub.FindDelta(unknown, timeout=5) == gateway_pb2.FindDeltaResponse()
    itself = gateway_pb2.FindDeltaRequest(archive=new.archive, base=new.variant)
    assert wait_for(lambda: bool(stub.FindDelta(itself, timeout=5).delta)), (
        "a device that runs it already is told so little that it fetches nothing anew"
    )
    assert stub.FindDelta(itself, timeout=5).delta_bytes < 500


def test_mirrors_of_a_transfer_file_are_named(stage: Stage) -> None:
    archive = stage.blobs.put_bytes(b"mirrored")
    request = gateway_pb2.LocateArtifactRequest(archive=archive)
    name = digest.hex_of(archive)
    assert list(stage.gateway().LocateArtifact(request, timeout=5).urls) == [
        f"https://one.example/{name[:2]}/{name}", f"https://two.example/{name}?key=k",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("archive", "status"),
    [
        ("sha256:" + "0" * 64, grpc.StatusCode.NOT_FOUND),
        ("../../etc", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_wrong_question_for_mirrors_is_refused(
    stage: Stage, archive: str, status: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stage.gateway().LocateArtifact(
            gateway_pb2.LocateArtifactRequest(archive=archive), timeout=5
        )
    assert refusal(refused)[0] is status


@pytest.mark.parametrize(
    ("archive", "base", "status"),
    [
        ("sha256:" + "0" * 64, "sha256:" + "0" * 64, grpc.StatusCode.NOT_FOUND),
        ("../../etc", "sha256:" + "0" * 64, grpc.StatusCode.INVALID_ARGUMENT),
        (digest.digest_bytes(b"small"), "../x", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_wrong_question_for_a_delta_is_refused(
    stage: Stage, archive: str, base: str, status: grpc.StatusCode
) -> None:
    stage.blobs.put_bytes(b"small")
    with pytest.raises(grpc.RpcError) as refused:
        stage.gateway().FindDelta(
            gateway_pb2.FindDeltaRequest(archive=archive, base=base), timeout=5
        )
    assert refusal(refused)[0] is status


def packed(stage: Stage, folder: Path, content: bytes) -> PackedBundle:
    """A bundle among the blobs, listed as ours."""
    bundle = make_bundle(folder / digest.short(digest.digest_bytes(content)), content=content)
    made = pack_into(bundle, stage.blobs, folder)
    stage.listed[made.variant] = made.archive
    return made


def fetched(stub: Any, request: Any) -> int | None:
    """Bytes of a whole transfer; None when there was no place for it."""
    try:
        return sum(len(part.data) for part in stub.FetchArtifact(request, timeout=20))
    except grpc.RpcError:
        return None


def test_submissions_reach_the_fleet_under_the_caller_s_name(stage: Stage) -> None:
    measurement = Measurement(
        id="m", bundle="sha256:b", runtime="onnx 1.0", threads=1, verdict=Verdict.VALID,
        energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
    )  # fmt: skip
    kernels = KernelTable(
        runtime="onnx", runtime_version="1.0", hardware="h", stack="s", threads=1,
        verdict=Verdict.VALID, emulated=False,
    )  # fmt: skip
    report = CalibrationReport(
        id="c", mode=CalibrationMode.MOMENTS, applied=True, reason="drift 0.2"
    )
    stub = stage.gateway()
    first: Any = gateway_pb2.SubmitMeasurementRequest(study="s1")
    first.measurement.CopyFrom(codec.to_message(measurement))
    stub.SubmitMeasurement(first, timeout=5)
    second: Any = gateway_pb2.SubmitMeasurementRequest(study="s2")
    second.kernels.CopyFrom(codec.to_message(kernels))
    stub.SubmitMeasurement(second, timeout=5)
    third: Any = gateway_pb2.SubmitCalibrationRequest(deployment="d", overlay=b"{}")
    third.calibration.CopyFrom(codec.to_message(report))
    stub.SubmitCalibration(third, timeout=5)
    assert stage.fleet.measurements == [
        ("device-a", "s1", measurement, None),
        ("device-a", "s2", None, kernels),
    ]
    assert stage.fleet.calibrations == [("device-a", "d", report, b"{}")]
    for empty in (
        lambda: stub.SubmitMeasurement(gateway_pb2.SubmitMeasurementRequest(), timeout=5),
        lambda: stub.SubmitCalibration(gateway_pb2.SubmitCalibrationRequest(), timeout=5),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            empty()
        assert refusal(refused)[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("failure", "status", "text", "retry"),
    [
        (Temporary("later", 3.5), grpc.StatusCode.RESOURCE_EXHAUSTED, "later", "3.5"),
        (
            KeyError("secret path"), grpc.StatusCode.INTERNAL,
            "the controller failed; its log says why", None,
        ),
    ],
)  # fmt: skip
def test_failures_say_what_a_caller_may_know(
    stage: Stage, failure: Exception, status: grpc.StatusCode, text: str, retry: str | None
) -> None:
    request: Any = gateway_pb2.SubmitMeasurementRequest(study="s")
    kernels = KernelTable(
        runtime="onnx", runtime_version="1", hardware="", stack="", threads=1,
        verdict=Verdict.VALID, emulated=False,
    )  # fmt: skip
    request.kernels.CopyFrom(codec.to_message(kernels))
    stage.fleet.failure = failure
    with pytest.raises(grpc.RpcError) as refused:
        stage.gateway().SubmitMeasurement(request, timeout=5)
    stage.fleet.failure = None
    got, trailing = refusal(refused)
    assert (got, refused.value.details(), trailing.get("retry-after")) == (status, text, retry)


def test_what_this_side_does_not_know_is_an_invalid_request(stage: Stage) -> None:
    request: Any = gateway_pb2.SubmitMeasurementRequest(study="s")
    request.measurement.verdict = 99
    with pytest.raises(grpc.RpcError) as refused:
        stage.gateway().SubmitMeasurement(request, timeout=5)
    assert refusal(refused)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_certificate_is_renewed_for_its_holder_only(stage: Stage) -> None:
    _key, csr = key_and_csr("device-b")  # the name in the request does not count
    request = gateway_pb2.RenewCertificateRequest(csr_pem=csr)
    answer = stage.gateway("device-a").RenewCertificate(request, timeout=5)
    assert stage.papers.ca.read_device(answer.certificate_pem)[0] == "device-a"


def test_no_session_where_the_link_is_mqtt(stage: Stage) -> None:
    outgoing: queue.Queue[Any] = queue.Queue()
    request: Any = gateway_pb2.SessionRequest()
    online = Uplink(presence=Presence(online=True, boot_id="boot"))
    request.uplink.CopyFrom(codec.to_message(online))
    outgoing.put(request)
    call = stage.gateway().Session(iter(outgoing.get, None), timeout=5)
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    outgoing.put(None)
    assert refusal(refused)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "uses MQTT" in str(refused.value.details())


def test_an_unknown_method_is_not_there(stage: Stage) -> None:
    with stage.papers.channel("device-a", stage.gateway_port) as channel:
        call = channel.unary_unary("/fitment.v1.Gateway/Shutdown")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=5)
    assert refusal(refused)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_port_that_is_taken_is_said_in_words(stage: Stage) -> None:
    async def bind() -> None:
        servers = GrpcServers("127.0.0.1", stage.papers.server_files())
        try:
            servers.bind(enroll_port=0, gateway_port=stage.gateway_port)
        finally:
            await servers.stop()

    with pytest.raises(UserError, match="another program has the port"):
        asyncio.run(bind())
    with pytest.raises(UserError, match="rest_port"):
        RestServer("127.0.0.1", stage.enroll_port)
