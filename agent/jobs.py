"""Jobs: what the supervisor asks of its workers, and what they answer.

A worker is ``python -m agent.workers.<name> JOB.json``. It reads one job, writes its result as
JSON to the job's ``result`` path (write, fsync, rename) and exits 0; when it fails it writes a
`WorkerFailure` there and exits 1. A worker that dies leaves no result: the supervisor treats
that as a failure that may be retried. Both sides know only the types of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fitment.core.deployment import (
    BenchmarkPlan,
    CalibrationPlan,
    CalibrationReport,
    SignedPayload,
)
from fitment.core.kernels import KernelTable
from fitment.core.measurement import Measurement

PARENT_VARIABLE: Final = "FITMENT_PARENT_PID"
"""Tells a worker who started it: a supervisor may be killed while its worker still imports, and
the next one starts the same work again."""
PIPES: Final = Path("/dev/fd")
"""A job or a result of this folder is a pipe to a parent that waits, and no file."""


TALLY: Final = "tally"
"""File in the data directory: what the newest transfer has received."""
SPENT: Final = "allowance"
"""Code of a fetch that would take more than may come: it waits, and no try is burnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How a worker reaches the controller's gateway; all but the address are file paths."""

    gateway: str  # host:port
    ca: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Settings of the runtimes that change which kernels run. They belong to the stack hash."""

    threads: int = 1
    disabled_optimizers: tuple[str, ...] = ()  # onnxruntime's graph transformers by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and as what a measurement is taken."""

    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    hardware: str = ""  # hardware hash
    stack: str = ""  # stack hash
    emulated: bool = False
    translated_on: str = ""  # the machine on which an emulator translates; empty: it is itself
    root: str = "/"  # prefix of /proc and /sys


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker sets on itself before it starts."""

    memory_bytes: int | None = None  # of data and heap (RLIMIT_DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailure:
    """Why a job failed. ``permanent``: trying again cannot help."""

    code: str
    message: str
    permanent: bool = False
    retry_after_s: float | None = None  # set by a busy server; burns no attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """Receive one transport file, going on where ``target`` ends."""

    result: str
    connection: Connection
    archive: str  # digest
    archive_bytes: int
    target: str  # part file; complete when it has archive_bytes
    base: str = ""  # variant that this device has; empty: ask for no delta
    base_folder: str = ""  # where its files are
    delta: str = ""  # part file of a delta
    rebuilt: str = ""  # the transport file's tar, when it was rebuilt from a delta
    lied: str = ""  # a mark that mirrors sent other bytes; while it is there none is asked
    min_rate_bytes_s: float = 1024.0
    stall_window_s: float = 30.0
    tally: str = ""  # file to which it adds a line ``<tally_id> <bytes>`` now and then
    tally_id: str = ""
    most_bytes: int | None = None  # that may come; None: whatever it takes
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """How the transfer went."""

    total_bytes: int  # of the transport file, whatever way it came
    resumed_from: int
    seconds: float
    wire_bytes: int = 0  # of what was transferred, over all tries
    delta_base: str = ""  # variant it was rebuilt from; empty: it came whole
    note: str = ""  # why a delta was not used after all


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyJob:
    """Check signatures, metadata, digest, device name and counter. Reads, activates nothing."""

    result: str
    connection: Connection
    order: SignedPayload  # an Assignment or a Study, as received
    kind: str  # "assignment" or "study"
    device: str
    archive_path: str
    director_key: str  # file with the director's raw public key, hex
    trusted_root: str  # file with the TUF root of enrolment
    metadata_dir: str  # where TUF keeps what it trusts
    rebuilt: bool = False  # ``archive_path`` is a tar that was rebuilt from a delta
    lowest_counter: int = 0  # of this slot; a release below it is refused
    rung: int = 0  # of an assignment's ladder: the file is this one's bundle
    now_unix: float | None = None  # floor of trusted time when the clock is behind it
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """Everything held. ``timestamp_unix`` raises the floor of trusted time."""

    variant: str
    counter: int
    timestamp_unix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageJob:
    """Unpack a transport file into ``folder`` (made anew) and check every file's digest."""

    result: str
    archive_path: str
    folder: str
    variant: str
    runtimes: tuple[str, ...] = ()  # adapters this device has; empty: do not check
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What was unpacked."""

    variant: str
    name: str
    runtime: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJob:
    """Answer the golden inputs and count what runs in integers."""

    result: str
    folder: str
    variant: str = ""  # that should be there; empty: whatever is
    overlay: str = ""
    first: bool = False  # nothing relies on it yet: look for room in memory before it is loaded
    files_only: bool = False  # it is for another stack: nothing is loaded, its files are compared
    setting: Setting = field(default_factory=Setting)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Whether the model still answers as it should, on this stack."""

    golden_ok: bool
    worst_error: float
    agreement: float | None
    sqnr_db: float | None
    integer_coverage: float | None
    runtime: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkJob:
    """Time one bundle, interleaved with the running one when there is one."""

    result: str
    id: str
    folder: str
    overlay: str = ""
    baseline_folder: str = ""
    baseline_overlay: str = ""
    plan: BenchmarkPlan = field(default_factory=BenchmarkPlan)
    setting: Setting = field(default_factory=Setting)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The measurement."""

    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeJob:
    """Time the tiny graphs of a probe bundle."""

    result: str
    folder: str
    plan: BenchmarkPlan = field(default_factory=BenchmarkPlan)
    setting: Setting = field(default_factory=Setting)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The kernel table of the bundle's runtime."""

    table: KernelTable


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateJob:
    """Fit a staged bundle to local samples; writes an overlay, never the pristine files."""

    result: str
    folder: str
    samples: str  # folder of .npy files, each [N, …] or one sample, in the model's input units
    overlay: str  # path to write
    plan: CalibrationPlan = field(default_factory=CalibrationPlan)
    setting: Setting = field(default_factory=Setting)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateResult:
    """What was found and done; ``report.applied`` says whether the overlay was written."""

    report: CalibrationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitJob:
    """Hand a measurement, kernel table or calibration over to the gateway."""

    result: str
    connection: Connection
    study: str = ""
    deployment: str = ""
    measurement: Measurement | None = None
    kernels: KernelTable | None = None
    calibration: CalibrationReport | None = None
    overlay: str = ""  # file
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """It is stored on the other side."""

    accepted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollJob:
    """Make a key (or use the one there), have it certified, write all of ``keys``."""

    result: str
    controller: str  # host:port of the enrol service
    token: str
    device: str  # wished name, may be empty
    keys: str  # folder
    ca: str = ""  # file with the controller's CA; empty: trust on first use, by fingerprint
    ca_fingerprint: str = ""  # sha256:… of the CA certificate (DER), part of the token's text
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollResult:
    """Also written to ``keys/enrolment.json``."""

    device: str
    gateway: str
    mqtt: str  # empty: the gRPC session
    expires_unix: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewJob:
    """Renew the certificate: with the old one while it is valid, by proof of key after."""

    result: str
    connection: Connection
    enroll_address: str
    device: str
    keys: str
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewResult:
    """The new certificate is in ``keys``."""

    expires_unix: float
    now_unix: float = 0.0  # by the controller's clock; 0: it did not say


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How the Open Inference Protocol is offered, and how requests share the model."""

    grpc_socket: str = ""  # path, at most 100 bytes; empty: the protocol is not offered
    port: int | None = None  # of 127.0.0.1, beside the socket; 0: any free one; None: no
    max_batch: int = 8  # samples in one run
    max_delay_ms: float = 0.0  # that a request may wait for company
    p99_limit_ms: float | None = None  # batches stay small enough for it
    max_waiting: int = 32  # requests beyond these are refused
    max_message_bytes: int = 16 * 2**20
    input_statistics_every: int = 8  # runs; 0: never


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """Keep one bundle loaded and answer on a Unix socket until SIGTERM.

    The socket appears when the model is loaded and has answered its golden inputs: that it
    accepts connections *is* readiness. The wire is described in ``agent/workers/README.md``.
    """

    result: str
    folder: str  # of the bundle; with ``follow``, the slot's link, whose changes are followed
    socket: str  # path, at most 100 bytes
    overlay: str = ""
    name: str = ""  # of the slot: the model answers to it, and to its own name
    follow: bool = False  # swap when the link leads elsewhere; its overlay is the file beside it
    serving: ServingOptions = field(default_factory=ServingOptions)
    setting: Setting = field(default_factory=Setting)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """What was served, written when the worker was told to end."""

    variant: str  # digest of the bundle served last
    overlay: str  # its overlay's id, empty when pristine
    requests: int
    errors: int
    swaps: int


JOBS: Mapping[str, tuple[type, type]] = {
    "fetch": (FetchJob, FetchResult),
    "verify": (VerifyJob, VerifyResult),
    "stage": (StageJob, StageResult),
    "check": (CheckJob, CheckResult),
    "benchmark": (BenchmarkJob, BenchmarkResult),
    "probe": (ProbeJob, ProbeResult),
    "calibrate": (CalibrateJob, CalibrateResult),
    "serve": (ServeJob, ServeResult),
    "submit": (SubmitJob, SubmitResult),
    "enroll": (EnrollJob, EnrollResult),
    "renew": (RenewJob, RenewResult),
}
"""Worker module below ``agent.workers`` to its job and result."""
