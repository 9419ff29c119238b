"""A device whose power may go: real supervisor, journal, slots and workers, on a real disk.

Workers are forks of a process that has loaded the libraries already, so a deployment takes a
fraction of a second; what they run is the workers' own code from the job file to the result.
Twins are the clock, the link, the wire below the gateway's stub, and the benchmark's stop-watch.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tuf.ngclient import Updater

from agent import durable
from agent.config import Settings
from agent.jobs import BenchmarkJob, BenchmarkResult, CheckJob, CheckResult
from agent.runner import ProcessRunner
from agent.testing import measurement
from agent.workers import benchmark, check, child, fetch, gateway_client, purse
from controller.artifacts import deltas, differ
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.packing import bundle_ref, pack_into
from controller.trust import Trust
from fitment.core import digest
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, ReleaseManifest
from fitment.core.deployment import Assignment, BundleRef, DesiredState, SignedPayload
from fitment.core.link import Downlink
from fitment.core.plain import from_plain
from fitment.v1 import gateway_pb2
from tests.integration import worker_models

from .agent_world import SLOT, World

CHUNK_BYTES = 8192
WORKERS = ("fetch", "verify", "stage", "check", "benchmark", "calibrate", "submit")


class Centre:
    """The controller's end: keys, bundles, signed orders, and the gateway's answers."""

    def __init__(self, folder: Path) -> None:
        self.trust = Trust.create(folder / "trust", folder / "offline", ["127.0.0.1"])
        self.blobs = FolderBlobs(folder / "blobs")
        self.samples = folder / "samples"
        self.samples.mkdir()
        dark = 0.3 * worker_models.pictures(96, seed=21)
        np.save(self.samples / "dark.npy", dark.astype(np.float32))
        self.variants: dict[str, str] = {}
        self.deltas: dict[tuple[str, str], tuple[str, int]] = {}
        self._before: BundleRef | None = None
        self._folder = folder

    def order(self, name: str, *, counter: int, **changes: Any) -> Assignment:
        """Publish ``v1`` (a plain model) or ``v2`` (one that can be calibrated), and order it."""
        folder = self._folder / name
        if name == "v1":
            variant = worker_models.affine_bundle(folder, worker_models.affine_models()[0])
        else:
            variant = worker_models.network_bundle(folder)
        packed = pack_into(folder, self.blobs, self._folder)
        ref = bundle_ref(packed, name)
        repository = self.trust.repository
        repository.add_bundles([(ref.target, self.blobs.path(ref.archive))])
        release = ReleaseManifest(
            release=f"r{counter}", model="m", version="1", slot=SLOT, counter=counter,
            variants={"x86": variant},
            ladders={"x86": tuple(lesser.bundle.variant for lesser in changes.get("ladder", ()))},
        )  # fmt: skip
        self._make_delta(ref)
        self.variants[name] = variant
        return Assignment(
            device="dev-1", deployment=f"d-{counter}", rollout="ro", release=release.release,
            release_target=repository.approve(release), slot=SLOT, counter=counter, bundle=ref,
            trial_s=0.0, **changes,
        )  # fmt: skip

    def _make_delta(self, ref: BundleRef) -> None:
        """For a device that has what was ordered before."""
        with self.blobs.open(ref.archive) as file:
            target, here = deltas.tar(file), self.blobs.path(ref.archive)
        if self._before is not None and self._before.variant != ref.variant:
            with self.blobs.open(self._before.archive) as file:
                _, data = differ.make(deltas.image(file), target)
            assert len(data) < here.stat().st_size
            self.deltas[ref.archive, self._before.variant] = self.blobs.put_bytes(data), len(data)
        if ref.name == "v1":
            self._before = ref

    def enrol(self, folder: Path) -> None:
        """The keys folder that an enrolment leaves."""
        keys = folder / "keys"
        keys.mkdir(parents=True)
        (keys / "director.pub").write_text(self.trust.director.public_raw.hex())
        (keys / "tuf_root.json").write_bytes(self.trust.repository.root_bytes())

    @contextlib.contextmanager
    def gateway(self, _connection: object) -> Iterator[_Stub]:
        """Stands in for `gateway_client.gateway`."""
        yield _Stub(self)


class _NotThere(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND


class _Call:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self._data), CHUNK_BYTES):
            yield gateway_pb2.FetchArtifactResponse(data=self._data[start : start + CHUNK_BYTES])

    def cancel(self) -> None:
        pass


class _Stub:
    def __init__(self, centre: Centre) -> None:
        self._centre = centre

    def FetchArtifact(self, request: Any) -> _Call:
        path = self._centre.blobs.path(request.archive)
        return _Call(path.read_bytes()[request.offset :])

    def LocateArtifact(self, _request: Any, timeout: float) -> Any:
        return gateway_pb2.LocateArtifactResponse()

    def FindDelta(self, request: Any, timeout: float) -> Any:
        named, size = self._centre.deltas.get((request.archive, request.base), ("", 0))
        return gateway_pb2.FindDeltaResponse(delta=named, delta_bytes=size)

    def FetchMetadata(self, request: Any, timeout: float) -> Any:
        data = self._centre.trust.repository.read(request.path)
        if data is None:
            raise _NotThere
        return gateway_pb2.FetchMetadataResponse(data=data)

    def SubmitCalibration(self, _request: Any, timeout: float) -> Any:
        return gateway_pb2.SubmitCalibrationResponse()


class ForkedWorker:
    """What `subprocess.Popen` is to the runner.

    The worker begins when it is asked for first, and then is waited for, so that the steps of a
    run come in the same order each time. One whose supervisor died before begins nevertheless.
    """

    def __init__(
        self, command: list[str], *, stdout: Any, env: Mapping[str, str], **_: Any
    ) -> None:
        self.returncode: int | None = None
        name, job = command[2].rpartition(".")[2], command[3]
        held, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.setpgid(0, 0)
            os.read(held, 1)
            _work(name, job, stdout.fileno(), env)
        os.close(held)
        with contextlib.suppress(PermissionError):
            os.setpgid(self.pid, self.pid)  # whoever of the two comes first

    def poll(self) -> int:
        return self.wait()

    def wait(self) -> int:
        if self.returncode is None:
            os.close(self._go)
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _work(name: str, job: str, errors: int, env: Mapping[str, str]) -> None:
    """The rest of a worker's life."""
    code = 70
    try:
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.environ.update(env)
        sys.argv = [name, job]
        code = child.run(name, importlib.import_module(f"agent.workers.{name}").handle)
    except BaseException:  # noqa: BLE001 - the outermost frame of a process
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def stand_in(centre: Centre, *, wrong_on_trial: bool) -> None:
    """Put twins below the workers, and forks in place of new processes."""
    real_check: Callable[[CheckJob], CheckResult] = check.handle

    def checked(job: CheckJob) -> CheckResult:
        answer = real_check(job)
        wrong = wrong_on_trial and job.folder.endswith("/active")
        return replace(answer, golden_ok=False) if wrong else answer

    def timed(job: BenchmarkJob) -> BenchmarkResult:
        baseline_ms = 3.0 if job.baseline_folder else None
        return BenchmarkResult(measurement=measurement(baseline_ms=baseline_ms))

    real_persist = Updater._persist_file

    def persist(self: Updater, filename: str, data: bytes) -> None:
        """The metadata client writes by itself."""
        durable.step("persist", Path(filename), lambda: real_persist(self, filename, data))

    check.handle = checked  # type: ignore[assignment]
    benchmark.handle = timed  # type: ignore[assignment]
    gateway_client.gateway = centre.gateway  # type: ignore[assignment]
    fetch._SYNC_BYTES = purse._TALLY_BYTES = CHUNK_BYTES  # as if the bundle were large
    Updater._persist_file = persist  # type: ignore[method-assign]
    subprocess.Popen = ForkedWorker  # type: ignore[assignment, misc]


def warm() -> None:
    """Load what workers need before the first of them is forked."""
    for name in WORKERS:
        importlib.import_module(f"agent.workers.{name}")
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that it looks at


class Device(World):
    """One device; what its controller hears goes to ``heard``, a line each, before all else."""

    wall_unix = time.time() + 300.0  # past the timestamps that are signed while this runs

    def __init__(self, folder: Path, centre: Centre, heard: Path, *, generation: int = 0) -> None:
        self._centre = centre
        self._heard = os.open(heard, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        super().__init__(folder, settings=Settings(samples={SLOT: centre.samples}))
        self.generation = generation

    def boot(self, *, reachable: bool = True) -> None:
        runner = ProcessRunner(self.folders.jobs)
        runner.sweep()
        self.runner = runner  # type: ignore[assignment]
        self.boot_id = str(os.getpid())  # the power was away, so it is another boot of the machine
        super().boot(reachable=reachable)

    def wish(self, *orders: Any, **changes: object) -> None:
        self.generation += 1
        signed = tuple(self._centre.trust.director.sign(order) for order in orders)
        assert all(isinstance(s, SignedPayload) for s in signed)
        desired = DesiredState(
            generation=self.generation, telemetry_interval_s=1e6, assignments=signed
        )
        self.link.deliver(Downlink(desired=desired))

    def listen(self) -> None:
        for uplink in self.link.received[self.heard :]:
            state = uplink.reported
            if state is not None:
                line = {
                    "deployments": [
                        [d.deployment, d.state.value, d.outcome.value if d.outcome else ""]
                        for d in state.deployments
                    ],
                    "counters": {s.slot: s.counter for s in state.slots},
                    "serving": {s.slot: s.variant for s in state.slots if s.serving},
                    "notes": list(state.notes),
                    "reasons": [reason for d in state.deployments for reason in d.reasons],
                }
                os.write(self._heard, json.dumps(line).encode() + b"\n")
        super().listen()


def complete(folder: Path) -> str:
    """The variant in a folder, all of whose files are what its manifest says.

    Raises:
        AssertionError: one is not, or is missing, or is one too many.
    """
    content = (folder / MANIFEST_NAME).read_bytes()
    manifest = from_plain(BundleManifest, json.loads(content))
    for entry in manifest.files:
        data = (folder / entry.path).read_bytes()
        assert digest.digest_bytes(data) == entry.sha256, f"{entry.path} is damaged"
    listed = {entry.path for entry in manifest.files} | {MANIFEST_NAME, "overlay.json"}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found <= listed, f"{found - listed} does not belong there"
    return digest.digest_bytes(content)


def die(*pids: int) -> None:
    """What a power cut is to processes; the caller's own is the last."""
    for pid in (*pids, os.getpid()):
        os.kill(pid, signal.SIGKILL)
