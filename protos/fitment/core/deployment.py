"""What the controller wishes and what a device reports.

Everything is level-triggered: `DesiredState` says how the device should be, `ReportedState`
how it is, and nothing depends on either arriving exactly once.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from fitment.core.fingerprint import Fingerprint
from fitment.core.measurement import Measurement


class DeploymentState(enum.Enum):
    """Where a device stands in one deployment."""

    IDLE = "idle"  # nothing to do
    FETCHING = "fetching"  # receiving the bundle
    VERIFYING = "verifying"  # signed metadata, digest, hardware, counter
    STAGING = "staging"  # unpacking into the spare slot
    WAITING = "waiting"  # staged, and outside its maintenance windows
    CALIBRATING = "calibrating"  # fitting to the device's own data, when the release asks
    BENCHMARKING = "benchmarking"  # timing against the running variant
    JUDGING = "judging"  # measurement against gates
    TRIAL = "trial"  # serving, watched
    COMMITTING = "committing"  # making the switch final
    ROLLING_BACK = "rolling_back"  # returning to the last good variant
    REPORTING = "reporting"  # the end is known and not yet acknowledged


class Outcome(enum.Enum):
    """How a deployment ended. Every deployment ends."""

    COMMITTED = "committed"  # the new variant serves
    ROLLED_BACK = "rolled_back"  # it was tried, judged worse, and taken back
    FAILED = "failed"  # it could not be tried
    REJECTED = "rejected"  # not for this device; never retried
    TIMED_OUT = "timed_out"  # a deadline passed
    CANCELLED = "cancelled"  # the controller took it back
    SUPERSEDED = "superseded"  # a newer assignment came first


class CalibrationMode(enum.Enum):
    """What on-device calibration may change."""

    NONE = "none"  # nothing
    RANGE = "range"  # activation ranges
    MOMENTS = "moments"  # first-layer moments, folded into scales and biases
    INPUT = "input"  # the inputs before they are fed; the file stays as it is


class StudyKind(enum.Enum):
    """What a device is asked to find out without deploying anything."""

    PROBE = "probe"  # time tiny graphs into a kernel table
    BENCHMARK = "benchmark"  # time one candidate variant


class Pressure(enum.Enum):
    """What a device may be short of; a lesser variant relieves some of it."""

    HEAT = "heat"  # it is near the point at which its clocks are cut, or they are
    BATTERY = "battery"  # it runs on what is left of a charge
    MEMORY = "memory"  # tasks wait for memory, or little is left


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPlan:
    """How long to time: minimum count *and* minimum seconds, with a cap."""

    min_runs: int = 200
    min_seconds: float = 1.0
    max_seconds: float = 20.0
    warmup_max_seconds: float = 3.0
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPlan:
    """Whether and how far a device may calibrate the variant on its own data."""

    mode: CalibrationMode = CalibrationMode.NONE
    min_samples: int = 64
    max_gain: float = 16.0  # bound of the correction, either way


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGates:
    """What must hold on the device before it commits. Null means not asked."""

    latency_p95_max_ms: float | None = None
    latency_ratio_max: float | None = None  # new p50 / running p50, interleaved
    agreement_min: float | None = None
    integer_coverage_min: float | None = None
    peak_memory_max_bytes: int | None = None
    energy_max_mj: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRef:
    """How to fetch one bundle and know it again."""

    variant: str  # digest of the bundle manifest
    name: str  # "int8-u8s8…", for people
    archive: str  # digest of the transport file
    archive_bytes: int
    target: str  # path in the signed metadata, "bundles/<hex>.tar.xz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A maintenance window as moments: seconds since the epoch (UTC), the end excluded."""

    opens_unix: int
    closes_unix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowPlan:
    """How long a candidate sees live inputs, unheard, before anything is switched.

    It needs a server of the slot (``fitment-agent serve``). An agent that does not know of it goes
    on without.
    """

    seconds: float
    inputs: int = 100  # samples that tell something
    agreement_min: float | None = None  # with what serves, 0..1; None: only failures count
    needed: bool = False  # too few inputs, or no server, roll back; else it goes on without


UNDERSTANDS_WINDOWS = "windows"
"""What an agent says that heeds `Assignment.windows`; an older one would switch at once."""


UNDERSTANDS_INPUT = "calibrate-input"
"""What an agent says that knows `CalibrationMode.INPUT`; an older one is asked for moments."""


UNDERSTANDS_STACKS = "stack-rungs"
"""What an agent says that heeds `Lesser.stacks`; an older one would serve such a rung anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesser:
    """One rung below the chosen variant: what serves when that one may not, or cannot."""

    bundle: BundleRef
    relieves: tuple[Pressure, ...] = ()  # of these it takes less than the chosen one
    portable: bool = False  # plain floating point: for the day the chosen one no longer runs
    reason: str = ""  # why it is on the ladder
    stacks: tuple[str, ...] = ()  # hashes: it is for these alone, and first there; empty: any
    coverage_min: float | None = None  # of heavy operators in integers, where it serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One variant for one slot of one device: the payload that the director signs."""

    device: str
    deployment: str  # id; a new attempt has a new id
    rollout: str
    release: str
    release_target: str  # path of the signed release manifest, "releases/<id>.json"
    slot: str  # the model's name
    counter: int  # of the release, for this slot; lower ones are refused
    bundle: BundleRef
    gates: DeviceGates = field(default_factory=DeviceGates)
    benchmark: BenchmarkPlan = field(default_factory=BenchmarkPlan)
    calibration: CalibrationPlan = field(default_factory=CalibrationPlan)
    deadline_s: float = 3600.0  # for the whole deployment
    step_deadline_s: float = 600.0  # for each state
    trial_s: float = 1.0
    windows: tuple[Span, ...] = ()  # when it may switch, in order, apart; empty: at any time
    ladder: tuple[Lesser, ...] = ()  # rungs 1, 2, …; the chosen variant is rung 0
    throttle_c: float | None = None  # at which this class of device cuts its clocks
    shadow: ShadowPlan | None = None
    metered: bool = False  # an operator asks: it may come over a metered link


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A question to the device, answered by a measurement or a kernel table."""

    id: str
    kind: StudyKind
    device: str
    bundle: BundleRef
    benchmark: BenchmarkPlan = field(default_factory=BenchmarkPlan)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPayload:
    """Canonical JSON and an Ed25519 signature over exactly these bytes."""

    payload: bytes
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """All that the controller wishes of one device.

    ``assignments`` and ``studies`` hold signed payloads of `Assignment` and `Study`.
    """

    generation: int
    assignments: tuple[SignedPayload, ...] = ()
    studies: tuple[SignedPayload, ...] = ()
    telemetry_interval_s: float = 10.0
    reconnect_jitter_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RungReport:
    """One lesser variant as the device holds it."""

    rung: int  # from 1
    variant: str
    name: str = ""
    portable: bool = False
    ready: bool = False  # it is there and has answered the goldens, where it is for this stack
    reason: str = ""  # why it is on the ladder, or why it is not ready
    p50_ms: float | None = None  # measured on this device
    stacks: tuple[str, ...] = ()  # hashes: the only ones on which it serves; empty: any


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """What one slot of the device holds and serves."""

    slot: str
    variant: str = ""  # digest of the active variant, empty when none
    name: str = ""
    release: str = ""
    counter: int = 0
    calibration: str = ""  # overlay id, empty when pristine
    golden_ok: bool | None = None  # last answer to the golden inputs, on this stack
    integer_coverage: float | None = None
    serving: bool = False
    checked_stack: str = ""  # stack hash under which it was last checked
    ladder: tuple[RungReport, ...] = ()  # lesser variants; empty when the release names none
    rung: int = 0  # that serves; 0 is the variant above
    rung_since_unix: float = 0.0  # by the device's clock; 0: it was never another
    rung_reason: str = ""  # why that one


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """What on-device calibration found and did. No sample leaves the device."""

    id: str
    mode: CalibrationMode
    applied: bool
    reason: str
    samples: int = 0
    drift: float | None = None  # distance of the input histogram from the reference, 0..1
    gain: float | None = None  # what explains the drift: local = gain * tone(ref) + offset
    offset: float | None = None
    unexplained: float | None = None  # what that leaves, 0..1
    agreement_before: float | None = None
    agreement_after: float | None = None
    exponent: float | None = None  # of the tone; 1: none


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """How far one deployment has come, or how it ended."""

    deployment: str
    slot: str
    variant: str
    state: DeploymentState
    outcome: Outcome | None = None
    reasons: tuple[str, ...] = ()
    attempts: int = 0
    fetched_bytes: int = 0  # that came over the wire, of whatever form
    measurement: Measurement | None = None
    calibration: CalibrationReport | None = None
    delta_base: str = ""  # variant it was rebuilt from; empty: it came whole
    held: str = ""  # why its transfer waits for the device's allowance; empty: it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceReport:
    """What a device has used of what its operator lets it use."""

    transferred_bytes: int = 0  # this month
    transfer_bytes_per_month: int = 0  # 0: no cap
    month_ends_unix: float = 0.0
    written_bytes: int = 0  # this day
    write_bytes_per_day: int = 0  # 0: no cap
    metered: bool | None = None  # the link, as far as it is known
    metered_why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedState:
    """All that a device says of itself; it always beats what the controller believes."""

    boot_id: str
    agent_version: str
    observed_generation: int  # the highest that it ever saw; orders of a lower one are taken too
    fingerprint: Fingerprint
    slots: tuple[SlotReport, ...] = ()
    deployments: tuple[DeploymentReport, ...] = ()
    studies_done: tuple[str, ...] = ()
    supervisor_anonymous_bytes: int | None = None
    supervisor_pss_bytes: int | None = None
    notes: tuple[str, ...] = ()
    time_zone: str = ""  # IANA name; empty: the device says none
    understands: tuple[str, ...] = ()  # parts of orders that an older agent would not heed
    quarantined: tuple[str, ...] = ()  # "slot/variant digest": failed again and again on this stack
    metadata_versions: Mapping[str, int] = field(default_factory=dict)  # role -> trusted version
    allowance: AllowanceReport | None = None  # None: the agent knows no such thing
