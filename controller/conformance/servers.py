"""The gRPC side of a controller that can be told to misbehave: Enroll, Gateway, Session.

Certificates, metadata and orders are the product's own; only what goes wrong is made here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from controller.artifacts.blobs import FolderBlobs
from controller.conformance.records import Asked, Records
from controller.errors import FitmentError, TrustError
from controller.trust import Trust
from controller.trust.tokens import hash_token, make_token
from fitment.core.link import Uplink
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec

CHUNK_BYTES = 32 * 1024


@dataclass
class Faults:
    """What goes wrong with the next transfers; a check sets it, and takes it back."""

    cut_after: int | None = None  # bytes of a transfer after which it breaks off, once
    flip: bool = False  # one bit of every transfer
    stall: bool = False  # transfers begin and do not go on
    mirrors: tuple[str, ...] = ()  # addresses that `LocateArtifact` names
    busy_s: float | None = None  # the next transfer is refused: come back after so long, once
    released: threading.Event = field(default_factory=threading.Event)


class Servers:
    """Enroll and Gateway on ``host``; both ports are free ones."""

    def __init__(self, folder: Path, trust: Trust, records: Records, *, host: str) -> None:
        self.trust, self.records, self.host = trust, records, host
        self.blobs = FolderBlobs(folder / "blobs")
        self.faults = Faults()
        self.sessions = Sessions(records)
        self.mqtt_address = ""
        self.tokens: set[str] = set()
        self.requests: list[Any] = []  # AdmitRequest
        self._servers: list[grpc.Server] = []
        enroll, self.enroll_port = self._serve(client_certificates=False)
        gateway_pb2_grpc.add_EnrollServicer_to_server(_Enroll(self), enroll)  # type: ignore[no-untyped-call]
        gateway, self.gateway_port = self._serve(client_certificates=True)
        gateway_pb2_grpc.add_GatewayServicer_to_server(_Gateway(self), gateway)  # type: ignore[no-untyped-call]
        for server in self._servers:
            server.start()

    @property
    def enroll_address(self) -> str:
        return f"{self.host}:{self.enroll_port}"

    def token(self) -> str:
        """A one-time token of this controller."""
        made = make_token(self.trust.ca.fingerprint())
        self.tokens.add(made.hash)
        return made.text

    def stop(self) -> None:
        self.faults.released.set()
        self.sessions.cut()
        for event in [server.stop(grace=0) for server in self._servers]:
            event.wait(5)

    def _serve(self, *, client_certificates: bool) -> tuple[grpc.Server, int]:
        files = self.trust.files
        credentials = grpc.ssl_server_credentials(
            [(files.server_key.read_bytes(), files.server_certificate.read_bytes())],
            root_certificates=files.ca.read_bytes() if client_certificates else None,
            require_client_auth=client_certificates,
        )
        pool = futures.ThreadPoolExecutor(16)
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        port = server.add_secure_port(f"{self.host}:0", credentials)
        self._servers.append(server)
        return server, port


class Sessions:
    """The gRPC session of the one device: what waits for it, and cutting it."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._desired: bytes | None = None
        self._epoch = 0

    def send(self, downlink: bytes, *, kept: bool) -> None:
        """Send serialized `Downlink`; what is ``kept`` is sent again to who connects anew."""
        with self._changed:
            self._desired = downlink if kept else self._desired
            self._waiting.append(downlink)
            self._changed.notify_all()

    def cut(self) -> None:
        """End the stream that is open; the device may come back."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def serve(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """One stream, until it is cut or another takes its place."""
        with self._changed:
            self._epoch += 1
            mine = self._epoch
            self._waiting = [] if self._desired is None else [self._desired]
            self._changed.notify_all()
        context.add_callback(self._wake)
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while (downlink := self._next(mine, context)) is not None:
            answer = gateway_pb2.SessionResponse()
            answer.downlink.ParseFromString(downlink)  # unknown fields are kept and sent
            yield answer
        if context.is_active():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the session was cut")

    def _next(self, mine: int, context: Any) -> bytes | None:
        with self._changed:
            while self._epoch == mine and context.is_active():
                if self._waiting:
                    return self._waiting.pop(0)
                self._changed.wait(1.0)
            return None

    def _read(self, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self._records.add(codec.from_message(Uplink, request.uplink))
        except (grpc.RpcError, codec.WireError, StopIteration):
            return

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Enroll(gateway_pb2_grpc.EnrollServicer):
    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._lock = threading.Lock()

    def Admit(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        servers = self._servers
        servers.requests.append(request)
        with self._lock:
            key = _hash(request.token)
            if key not in servers.tokens:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "this token admits nobody")
            try:
                issued = servers.trust.ca.issue_device(request.csr_pem, request.device, 30)
            except TrustError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            servers.tokens.discard(key)
        director = servers.trust.director
        return gateway_pb2.AdmitResponse(
            device=request.device,
            certificate_pem=issued.pem,
            ca_pem=servers.trust.ca.certificate_pem,
            tuf_root=servers.trust.repository.root_bytes(),
            director_public_key=director.public_raw,
            director_key_id=director.key_id,
            gateway_address=f"{servers.host}:{servers.gateway_port}",
            mqtt_address=servers.mqtt_address,
        )


def _hash(token: str) -> str:
    try:
        return hash_token(token)
    except TrustError:
        return ""


class _Gateway(gateway_pb2_grpc.GatewayServicer):
    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._note = servers.records.call

    def Session(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        return self._servers.sessions.serve(requests, context)

    def FetchArtifact(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        servers, faults = self._servers, self._servers.faults
        self._asked("FetchArtifact", request.archive, offset=request.offset)
        if faults.busy_s is not None:
            wait_s, faults.busy_s = faults.busy_s, None
            context.set_trailing_metadata((("retry-after", f"{wait_s:g}"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "many devices are fetching")
        try:
            size = servers.blobs.size(request.archive)
        except FitmentError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        for data in self._chunks(request.archive, request.offset, context):
            yield gateway_pb2.FetchArtifactResponse(data=data, total_bytes=size)

    def _chunks(self, archive: str, offset: int, context: Any) -> Iterator[bytes]:
        faults, sent = self._servers.faults, 0
        with self._servers.blobs.open(archive) as file:
            file.seek(offset)
            for data in iter(lambda: file.read(CHUNK_BYTES), b""):
                if faults.cut_after is not None and sent >= faults.cut_after:
                    faults.cut_after = None
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the line was cut")
                while faults.stall and context.is_active() and not faults.released.wait(0.2):
                    pass
                sent += len(data)
                yield (
                    bytes((data[0] ^ 1,)) + data[1:] if faults.flip and sent == len(data) else data
                )

    def LocateArtifact(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        self._asked("LocateArtifact", request.archive)
        return gateway_pb2.LocateArtifactResponse(urls=self._servers.faults.mirrors)

    def FindDelta(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return gateway_pb2.FindDeltaResponse()

    def FetchMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._asked("FetchMetadata", request.path)
        data = self._servers.trust.repository.read(request.path)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no metadata {request.path}")
            raise AssertionError("abort raises")
        return gateway_pb2.FetchMetadataResponse(data=data)

    def SubmitMeasurement(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        self._asked("SubmitMeasurement", request.study, value=request)
        return gateway_pb2.SubmitMeasurementResponse()

    def SubmitCalibration(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        self._asked("SubmitCalibration", request.deployment, value=request)
        return gateway_pb2.SubmitCalibrationResponse()

    def _asked(self, call: str, subject: str, *, offset: int = 0, value: object = None) -> None:
        asked = Asked(at_s=time.monotonic(), call=call, subject=subject, offset=offset, value=value)
        self._note(asked)
