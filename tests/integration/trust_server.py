"""A real controller for the agent's security workers: own trust folder, own gRPC, faults on demand.

It serves with the product's certificates, metadata and blobs; only the admission book-keeping is
a dictionary here. What an attacker or a bad network would do is set on it by a test.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from agent.jobs import Connection
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.deltas import Delta, Deltas
from controller.artifacts.mirrors import Mirrors
from controller.artifacts.packing import PackedBundle, bundle_ref, pack_into
from controller.errors import FitmentError, NotFound, TrustError
from controller.trust import Trust
from controller.trust.tokens import hash_token, make_token
from fitment.core import digest
from fitment.core.bundle import BundleManifest, FileEntry, ReleaseManifest
from fitment.core.deployment import Assignment, BundleRef, Lesser
from fitment.v1 import gateway_pb2, gateway_pb2_grpc

CHUNK_BYTES = 16 * 1024


@dataclass
class Faults:
    """What goes wrong, set by a test."""

    metadata: dict[str, bytes | None] = field(default_factory=dict)  # path -> what is sent instead
    chunks: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None
    busy_s: float | None = None
    status: grpc.StatusCode | None = None
    knows_deltas: bool = True
    mirrors: Mirrors | None = None  # None: a controller from before there were any
    delta: Delta | None = None  # what it names, whatever was asked for


@dataclass
class Book:
    """Tokens and names, and what devices handed in."""

    tokens: dict[str, str] = field(default_factory=dict)  # hash -> "", "used" or "expired"
    names: set[str] = field(default_factory=set)
    offsets: list[int] = field(default_factory=list)  # asked of FetchArtifact
    sent_bytes: int = 0  # by FetchArtifact
    submitted: list[Any] = field(default_factory=list)


class Controller:
    """Enroll and Gateway on loopback."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] | None = None, *, host: str = "127.0.0.1"
    ) -> None:
        more = {"clock": clock} if clock else {}
        self.folder, self.host = folder, host
        self.trust = Trust.create(folder / "trust", folder / "offline", [host], **more)
        self.blobs = FolderBlobs(folder / "blobs")
        self.deltas = Deltas(folder / "deltas", self.blobs, self.trust.repository.archive_of)
        self.faults = Faults()
        self.book = Book()
        self.days = 30.0  # of the certificates it issues
        self._servers: list[grpc.Server] = []
        enroll, self.enroll_port = self._serve(client_certificates=False)
        gateway_pb2_grpc.add_EnrollServicer_to_server(_Enroll(self), enroll)
        gateway, self.gateway_port = self._serve(client_certificates=True)
        gateway_pb2_grpc.add_GatewayServicer_to_server(_Gateway(self), gateway)
        for server in self._servers:
            server.start()

    @property
    def enroll_address(self) -> str:
        return f"{self.host}:{self.enroll_port}"

    @property
    def gateway_address(self) -> str:
        return f"{self.host}:{self.gateway_port}"

    def token(self) -> str:
        made = make_token(self.trust.ca.fingerprint())
        self.book.tokens[made.hash] = ""
        return made.text

    def connection(self, keys: Path) -> Connection:
        return Connection(
            gateway=self.gateway_address,
            ca=str(keys / "ca.crt"),
            certificate=str(keys / "device.crt"),
            key=str(keys / "device.key"),
        )

    def publish(self, content: bytes = b"weights", name: str = "int8") -> BundleRef:
        """Pack, store and sign a bundle."""
        folder = make_bundle(self.folder / "bundles" / digest.short(digest.digest_bytes(content)),
                             content=content, name=name)  # fmt: skip
        packed = pack_into(folder, self.blobs, self.folder)
        return self.sign(packed, name)

    def sign(self, packed: PackedBundle, name: str) -> BundleRef:
        ref = bundle_ref(packed, name)
        self.trust.repository.add_bundles([(ref.target, self.blobs.path(ref.archive))])
        return ref

    def assignment(
        self, ref: BundleRef, *, counter: int = 1, device: str = "cam-1",
        ladder: tuple[Lesser, ...] = (),
    ) -> Assignment:  # fmt: skip
        """Approve a release of the bundle and make the order for it."""
        release = ReleaseManifest(
            release=f"r{counter}",
            model="shoes",
            version="1",
            slot="shoes",
            counter=counter,
            variants={"x86": ref.variant},
            ladders={"x86": tuple(lesser.bundle.variant for lesser in ladder)},
        )
        target = self.trust.repository.approve(release)
        return Assignment(
            device=device,
            deployment="d1",
            rollout="ro1",
            release=release.release,
            release_target=target,
            slot="shoes",
            counter=counter,
            bundle=ref,
            ladder=ladder,
        )

    def stop(self) -> None:
        for event in [server.stop(grace=0) for server in self._servers]:
            event.wait(5)

    def _serve(self, *, client_certificates: bool) -> tuple[grpc.Server, int]:
        files = self.trust.files
        credentials = grpc.ssl_server_credentials(
            [(files.server_key.read_bytes(), files.server_certificate.read_bytes())],
            root_certificates=files.ca.read_bytes() if client_certificates else None,
            require_client_auth=client_certificates,
        )
        server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        port = server.add_secure_port(f"{self.host}:0", credentials)
        self._servers.append(server)
        return server, port


class _Enroll(gateway_pb2_grpc.EnrollServicer):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._lock = threading.Lock()

    def Admit(self, request: Any, context: Any) -> Any:
        c = self._controller
        with _catalogue(context), self._lock:
            key = hash_token(request.token)
            state = c.book.tokens.get(key, "unknown")
            if state:
                raise TrustError(f"the token is {state}: ask for a new one")
            name = request.device or "dev-1"
            if name in c.book.names:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the name '{name}' is taken")
            issued = c.trust.ca.issue_device(request.csr_pem, name, c.days)
            c.book.tokens[key] = "used"
            c.book.names.add(name)
        return gateway_pb2.AdmitResponse(
            device=name,
            certificate_pem=issued.pem,
            ca_pem=c.trust.ca.certificate_pem,
            tuf_root=c.trust.repository.root_bytes(),
            director_public_key=c.trust.director.public_raw,
            director_key_id=c.trust.director.key_id,
            gateway_address=c.gateway_address,
        )

    def Recover(self, request: Any, context: Any) -> Any:
        c = self._controller
        with _catalogue(context):
            name = c.trust.ca.check_proof(
                certificate_pem=request.expired_certificate_pem,
                csr_pem=request.csr_pem,
                proof=request.proof,
            )
            issued = c.trust.ca.issue_device(request.csr_pem, name, 30)
        return gateway_pb2.RecoverResponse(
            certificate_pem=issued.pem, ca_pem=c.trust.ca.certificate_pem
        )


class _Gateway(gateway_pb2_grpc.GatewayServicer):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def RenewCertificate(self, request: Any, context: Any) -> Any:
        c = self._controller
        with _catalogue(context):
            pem = context.auth_context()["x509_pem_cert"][0]
            name, _serial = c.trust.ca.read_device(pem)
            issued = c.trust.ca.issue_device(request.csr_pem, name, 60)
        return gateway_pb2.RenewCertificateResponse(
            certificate_pem=issued.pem, ca_pem=c.trust.ca.certificate_pem
        )

    def FetchArtifact(self, request: Any, context: Any) -> Iterator[Any]:
        c = self._controller
        self._fail(context)
        c.book.offsets.append(request.offset)
        with _catalogue(context):
            size = c.blobs.size(request.archive)
        chunks = self._chunks(request.archive, request.offset)
        for data in c.faults.chunks(chunks) if c.faults.chunks else chunks:
            c.book.sent_bytes += len(data)
            yield gateway_pb2.FetchArtifactResponse(data=data, total_bytes=size)

    def LocateArtifact(self, request: Any, context: Any) -> Any:
        c = self._controller
        if c.faults.mirrors is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return gateway_pb2.LocateArtifactResponse(urls=c.faults.mirrors.urls(request.archive))

    def FindDelta(self, request: Any, context: Any) -> Any:
        c = self._controller
        self._fail(context)
        if not c.faults.knows_deltas:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        with _catalogue(context):
            found = c.faults.delta or c.deltas.ask(request.archive, request.base).result(20)
        if found is None:
            return gateway_pb2.FindDeltaResponse()
        return gateway_pb2.FindDeltaResponse(delta=found.delta, delta_bytes=found.delta_bytes)

    def FetchMetadata(self, request: Any, context: Any) -> Any:
        c = self._controller
        self._fail(context)
        data = c.trust.repository.read(request.path)
        data = c.faults.metadata.get(request.path, data)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no metadata {request.path}")
        return gateway_pb2.FetchMetadataResponse(data=data)

    def SubmitMeasurement(self, request: Any, context: Any) -> Any:
        self._controller.book.submitted.append(request)
        return gateway_pb2.SubmitMeasurementResponse()

    def SubmitCalibration(self, request: Any, context: Any) -> Any:
        self._controller.book.submitted.append(request)
        return gateway_pb2.SubmitCalibrationResponse()

    def _chunks(self, archive: str, offset: int) -> Iterator[bytes]:
        with self._controller.blobs.open(archive) as file:
            file.seek(offset)
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")

    def _fail(self, context: Any) -> None:
        faults = self._controller.faults
        if faults.busy_s is not None:
            context.set_trailing_metadata((("retry-after", f"{faults.busy_s:g}"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "many devices are fetching")
        if faults.status is not None:
            context.abort(faults.status, "as the test wants it")


class _catalogue:
    """Errors of the controller as statuses, the way its gateway does it."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TrustError):
            self._context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        if isinstance(error, NotFound):
            self._context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        if isinstance(error, FitmentError):
            self._context.abort(grpc.StatusCode.INTERNAL, str(error))


def make_bundle(folder: Path, *, content: bytes = b"weights", name: str = "int8") -> Path:
    """A bundle folder with one runtime file and one in a folder."""
    files = {"model.onnx": content, "golden/inputs.npy": b"\x93NUMPY" + content[:64]}
    entries = []
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        entries.append(FileEntry(path=path, sha256=digest.digest_bytes(data), size=len(data)))
    manifest = BundleManifest(
        name=name, model="shoes", version="1", artifact="model.onnx", files=tuple(entries)
    )
    (folder / "bundle.json").write_bytes(digest.canonical(manifest))
    return folder


def resign_metadata(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Signed metadata with other content and the old signature, as an attacker would send it."""
    document = json.loads(data)
    change(document["signed"])
    return json.dumps(document).encode()
