"""A small agent over the real wire, to test `fitment conformance` with: right, or wrong on demand.

    python small_agent.py FOLDER FAULTS enroll CONTROLLER TOKEN DEVICE
    python small_agent.py FOLDER FAULTS run

It knows both links, orders and telemetry, and runs no model: what it says of one it makes up.
FAULTS are words joined by commas, each of which breaks one rule; ``none`` breaks none.
"""

from __future__ import annotations

import base64
import io
import json
import queue
import signal
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import small_mqtt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from fitment.core import digest, plain
from fitment.core.deployment import (
    UNDERSTANDS_WINDOWS,
    Assignment,
    DeploymentReport,
    DeploymentState,
    DesiredState,
    Outcome,
    ReportedState,
    SignedPayload,
    SlotReport,
)
from fitment.core.fingerprint import Facet, Fingerprint
from fitment.core.link import Downlink, Uplink
from fitment.core.measurement import Energy, Measurement, ReadingStatus, Verdict
from fitment.core.telemetry import CommandKind, Presence, TelemetryBatch
from fitment.v1 import gateway_pb2, gateway_pb2_grpc
from fitment.wire import codec

STATES = (
    DeploymentState.STAGING, DeploymentState.BENCHMARKING, DeploymentState.JUDGING,
    DeploymentState.TRIAL, DeploymentState.COMMITTING,
)  # fmt: skip
BATCH_S = 0.3


def enroll(folder: Path, faults: set[str], controller: str, token: str, device: str) -> int:
    ca = authority(controller, token.rpartition(".")[2], faults)
    if ca is None:
        print("this is not the controller of the token")
        return 3
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM)
    channel = grpc.secure_channel(controller, grpc.ssl_channel_credentials(ca))
    stub = gateway_pb2_grpc.EnrollStub(channel)
    try:
        answer = stub.Admit(
            gateway_pb2.AdmitRequest(token=token, device=device, csr_pem=pem), timeout=20
        )
    except grpc.RpcError as error:
        print(f"refused: {error}")
        return 0 if "enrolled-anyway" in faults else 4
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )  # fmt: skip
    papers = {
        "ca": answer.ca_pem.decode(), "certificate": answer.certificate_pem.decode(),
        "key": private.decode(), "gateway": answer.gateway_address, "device": device,
        "director": answer.director_public_key.hex(), "mqtt": answer.mqtt_address,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "papers.json").write_text(json.dumps(papers))
    return 0


def authority(controller: str, wanted: str, faults: set[str]) -> bytes | None:
    """The CA that the server's certificate carries, if it is the token's."""
    host, _, port = controller.rpartition(":")
    leaf = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())
    carried = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    for access in carried:
        if access.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            der = base64.b64decode(access.access_location.value.partition(",")[2])
            if digest.hex_of(digest.digest_bytes(der)) == wanted or "any-authority" in faults:
                found = x509.load_der_x509_certificate(der)
                return found.public_bytes(serialization.Encoding.PEM)
    return None


class Agent:
    """One process, over as many sessions as it takes."""

    def __init__(self, folder: Path, faults: set[str]) -> None:
        self.faults, self.folder = faults, folder
        self.papers = json.loads((folder / "papers.json").read_text())
        self.boot_id = str(time.time_ns())
        self.slot = SlotReport(slot="conformance")
        self.reports: dict[str, DeploymentReport] = {}
        self.ended: set[str] = set()
        self.generation = 0
        self.wanted: set[str] = set()
        self.versions: dict[str, int] = {}
        self.batches: list[TelemetryBatch] = []
        self.sequence = 0
        self.outgoing: queue.Queue[Uplink | None] = queue.Queue()
        self.load()
        self.working = threading.Lock()

    def load(self) -> None:
        """What an earlier process of this folder knew."""
        path = self.folder / "state.json"
        if path.exists():
            state = json.loads(path.read_text())
            self.slot = plain.from_plain(SlotReport, state["slot"])
            self.ended = set(state["ended"])
            self.sequence = state["sequence"]
            self.batches = [plain.from_plain(TelemetryBatch, held) for held in state["batches"]]

    def save(self) -> None:
        state = {
            "slot": plain.to_plain(self.slot), "ended": sorted(self.ended),
            "sequence": self.sequence, "batches": [plain.to_plain(b) for b in self.batches],
        }  # fmt: skip
        new = self.folder / f"state.{threading.get_ident()}"
        new.write_text(json.dumps(state))
        new.replace(self.folder / "state.json")

    def run(self) -> None:
        threading.Thread(target=self.sample, daemon=True).start()
        while True:
            self.serve()
            time.sleep(0.1)

    def serve(self) -> None:
        """One session, until it ends."""
        try:
            responses = self.session()
            if self.papers["mqtt"]:
                small_mqtt.connect(self.folder, self.papers, self.outgoing, self.receive)
            for response in () if self.papers["mqtt"] else responses():
                self.receive(codec.from_message(Downlink, response.downlink))
        except (grpc.RpcError, OSError):
            return
        finally:
            self.outgoing.put(None)

    def session(self) -> Callable[[], Iterator[Any]]:
        """What goes first is in ``outgoing``; called, it opens a session of the gateway."""
        self.outgoing = queue.Queue()
        online = Uplink(presence=Presence(online=True, boot_id=self.boot_id))
        first = [online, Uplink(reported=self.state())]
        resent = [] if "never-again" in self.faults else list(self.batches)
        for uplink in (*first, *(Uplink(telemetry=batch) for batch in resent)):
            self.outgoing.put(uplink)
        self.stub = gateway_pb2_grpc.GatewayStub(self.channel())
        return lambda: self.keep(self.stub.Session(self.requests(self.outgoing)))

    def keep(self, responses: Any) -> Iterator[Any]:
        """A message that makes no sense ends the agent, or only itself."""
        for response in responses:
            try:
                codec.from_message(Downlink, response.downlink)
            except codec.WireError:
                if "dies-of-garbage" in self.faults:
                    sys.exit(1)
                continue
            yield response

    def requests(self, outgoing: queue.Queue[Uplink | None]) -> Iterator[Any]:
        while (uplink := outgoing.get()) is not None:
            request = gateway_pb2.SessionRequest()
            request.uplink.CopyFrom(codec.to_message(uplink))
            yield request

    def channel(self) -> Any:
        papers = {k: str(v).encode() for k, v in self.papers.items()}
        credentials = grpc.ssl_channel_credentials(
            papers["ca"], papers["key"], papers["certificate"]
        )
        return grpc.secure_channel(self.papers["gateway"], credentials)

    def receive(self, downlink: Downlink) -> None:
        if downlink.ack is not None and "deaf-to-acks" not in self.faults:
            ack = downlink.ack
            mine = ack.outbox == "small" or "any-outbox" in self.faults
            self.batches = [b for b in self.batches if not (mine and b.sequence <= ack.sequence)]
            self.save()
        if downlink.command is not None and downlink.command.kind is CommandKind.REPORT:
            late = time.time_ns() > downlink.command.deadline_unix_ns
            if "deaf-to-commands" not in self.faults and (not late or "obeys-late" in self.faults):
                self.report()
        if downlink.desired is not None:
            wanted = [json.loads(signed.payload) for signed in downlink.desired.assignments]
            self.wanted = {order["deployment"] for order in wanted}
            threading.Thread(target=self.desire, args=(downlink.desired,), daemon=True).start()

    def desire(self, desired: DesiredState) -> None:
        with self.working:
            if "same-generation" not in self.faults:
                self.generation = desired.generation
            named = {json.loads(signed.payload)["deployment"] for signed in desired.assignments}
            self.reports = {k: v for k, v in self.reports.items() if k in named}
            self.report()
            for signed in desired.assignments:
                self.carry_out(signed)

    def carry_out(self, signed: SignedPayload) -> None:
        document = json.loads(signed.payload)
        order = plain.from_plain(Assignment, document)
        if order.deployment in self.ended and "repeats" not in self.faults:
            return
        if "strict" in self.faults and set(document) != set(plain.to_plain(order)):
            return
        self.at(order, DeploymentState.FETCHING)
        try:
            data = self.fetch(order)
        except OSError as error:
            self.end(order, Outcome.FAILED, str(error))
            return
        self.at(order, DeploymentState.VERIFYING)
        self.trust_metadata()
        problem = self.problem(signed, order, data)
        if problem:
            self.end(order, Outcome.FAILED, problem)
            return
        if order.windows:
            self.at(order, DeploymentState.STAGING)
            self.at(order, DeploymentState.WAITING)
        while not self.may_switch(order):
            if order.deployment not in self.wanted:
                self.end(order, Outcome.CANCELLED, "it is no longer ordered")
                return
            time.sleep(0.05)
        states = STATES[1:] if order.windows else STATES
        for state in reversed(states) if "backwards" in self.faults else states:
            self.at(order, state)
        self.slot = replace(
            self.slot, variant=order.bundle.variant, name=order.bundle.name, counter=order.counter,
            release=order.release, golden_ok=True, serving=True,
        )  # fmt: skip
        self.end(order, Outcome.COMMITTED, "")

    def may_switch(self, order: Assignment) -> bool:
        now = time.time()
        found = any(span.opens_unix <= now < span.closes_unix for span in order.windows)
        return found or not order.windows or "deaf-to-windows" in self.faults

    def mirrored(self, order: Assignment) -> bytes:
        """What the first mirror sends, whatever that is."""
        request = gateway_pb2.LocateArtifactRequest(archive=order.bundle.archive)
        urls = self.stub.LocateArtifact(request, timeout=10).urls
        try:
            with urllib.request.urlopen(urls[0], timeout=5) if urls else io.BytesIO() as answer:
                return bytes(answer.read())
        except OSError:
            if "lost-without-mirror" in self.faults:
                raise
        return b""

    def fetch(self, order: Assignment) -> bytes:
        data = self.mirrored(order)
        right = digest.digest_bytes(data) == order.bundle.archive
        if data and (right or "believes-mirrors" in self.faults):
            return data
        data = b""
        while len(data) < order.bundle.archive_bytes:
            offset = 0 if "begins-anew" in self.faults else len(data)
            data = data[:offset]
            request = gateway_pb2.FetchArtifactRequest(archive=order.bundle.archive, offset=offset)
            try:
                for part in self.stub.FetchArtifact(request):
                    data += part.data
            except grpc.RpcError as error:
                told = dict(error.trailing_metadata() or ()).get("retry-after", "0.2")
                time.sleep(0.0 if "impatient" in self.faults else float(told) + 0.1)
        return data

    def trust_metadata(self) -> None:
        """It believes what it is given; only its word of the versions is checked."""
        request = gateway_pb2.FetchMetadataRequest(path="timestamp.json")
        signed = json.loads(self.stub.FetchMetadata(request, timeout=10).data)["signed"]
        snapshot = signed["meta"]["snapshot.json"]["version"]
        self.versions = {"timestamp": signed["version"], "snapshot": snapshot}
        if "forgets-versions" in self.faults:
            self.versions = {}
        if "first-versions" in self.faults:
            self.versions = {"timestamp": 1, "snapshot": 1}

    def problem(self, signed: SignedPayload, order: Assignment, data: bytes) -> str:
        """Why an order must not be carried out."""
        director = bytes.fromhex(self.papers["director"])
        wrong = {
            "believes-signatures": not self.signed(signed, director),
            "any-director": signed.key_id != digest.digest_bytes(director),
            "any-device": order.device != self.papers["device"],
            "any-counter": order.counter < self.slot.counter,
            "any-digest": digest.digest_bytes(data) != order.bundle.archive
            and "believes-mirrors" not in self.faults,
        }
        return ", ".join(
            rule for rule, broken in wrong.items() if broken - (rule in self.faults) > 0
        )

    @staticmethod
    def signed(signed: SignedPayload, director: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(director).verify(signed.signature, signed.payload)
        except InvalidSignature:
            return False
        return True

    def at(self, order: Assignment, state: DeploymentState) -> None:
        self.reports[order.deployment] = DeploymentReport(
            deployment=order.deployment, slot=order.slot, variant=order.bundle.variant, state=state
        )
        self.report()

    def end(self, order: Assignment, outcome: Outcome, why: str) -> None:
        self.ended.add(order.deployment)
        self.save()
        self.reports[order.deployment] = DeploymentReport(
            deployment=order.deployment, slot=order.slot, variant=order.bundle.variant,
            state=DeploymentState.REPORTING, outcome=outcome, reasons=(why,) if why else (),
            measurement=self.measurement(order) if outcome is Outcome.COMMITTED else None,
        )  # fmt: skip
        self.report()

    def measurement(self, order: Assignment) -> Measurement:
        return Measurement(
            id=f"{order.deployment}-{time.time_ns()}", bundle=order.bundle.variant, runtime="onnx",
            threads=1, verdict=Verdict.TOO_SHORT, reasons=("this agent times nothing",),
            energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="no sensor"),
        )  # fmt: skip

    def report(self) -> None:
        self.outgoing.put(Uplink(reported=self.state()))

    def state(self) -> ReportedState:
        facts = Facet.of({"machine": "small"})
        if "wrong-hash" in self.faults:
            facts = replace(facts, hash=digest.digest_bytes(b""))
        return ReportedState(
            boot_id=self.boot_id, agent_version="0", observed_generation=self.generation,
            fingerprint=Fingerprint(
                chassis=Facet.of({}), hardware=facts, condition=Facet.of({}),
                stack=Facet.of({"runtime.onnx": "1.0"}),
            ),
            slots=(self.slot,), deployments=tuple(self.reports.values()),
            understands=(UNDERSTANDS_WINDOWS,), metadata_versions=self.versions,
        )  # fmt: skip

    def sample(self) -> None:
        while True:
            self.sequence += 2 if "skips" in self.faults else 1
            first = self.batches[0].sequence if self.batches else self.sequence
            batch = TelemetryBatch(
                outbox="small", sequence=self.sequence, first_available=first,
                boot_id=self.boot_id, monotonic_ns=(time.monotonic_ns(),),
                wall_unix_ns=(time.time_ns(),),
            )  # fmt: skip
            self.batches.append(batch)
            self.save()
            self.outgoing.put(Uplink(telemetry=batch))
            time.sleep(BATCH_S)


def main(folder: str, faults: str, command: str, *more: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    broken = set(faults.split(",")) - {"none"}
    if command == "enroll":
        return enroll(Path(folder), broken, *more)
    Agent(Path(folder), broken).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
