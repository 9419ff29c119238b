"""What the controller knows, as frozen records. Times are unix seconds, given by the caller."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.domain.evidence import OperatingPoint, SliceEvidence
from controller.domain.footprint import Footprint
from controller.domain.judgement import TooFew
from controller.domain.residuals import Residual
from fitment.core.deployment import (
    BundleRef,
    CalibrationPlan,
    CalibrationReport,
    DeploymentState,
    DeviceGates,
    Outcome,
    Pressure,
    ReportedState,
    Span,
)
from fitment.core.fingerprint import Fingerprint
from fitment.core.measurement import Cost, Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The devices for which one variant is right."""

    profile: str
    hardware: str  # hardware hash
    stack: str  # stack hash

    @property
    def key(self) -> str:
        """``profile/hardware12/stack12``: the key in release manifests."""
        hardware = self.hardware.removeprefix("sha256:")[:12]
        stack = self.stack.removeprefix("sha256:")[:12]
        return f"{self.profile}/{hardware}/{stack}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One enrolled machine."""

    name: str
    tenant: str = "default"
    serial: str = ""  # of its newest certificate, decimal
    serials: tuple[str, ...] = ()  # of all its certificates that may still be valid
    enrolled_at: float = 0.0
    revoked: bool = False
    decommissioned_at: float = 0.0  # taken out of service; revoked, and its name is free
    renamed_at: float = 0.0  # when it took the name of one that was decommissioned
    labels: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    profile_reason: str = ""
    reported: ReportedState | None = None
    online: bool = False
    last_seen: float = 0.0
    generation: int = 0  # of the desired state last published
    desired_key: str = ""  # digest of what that state asked for

    @property
    def cohort(self) -> Cohort | None:
        """Its cohort, once it has reported and was matched."""
        if self.reported is None or not self.profile:
            return None
        fingerprint = self.reported.fingerprint
        return Cohort(
            profile=self.profile,
            hardware=fingerprint.hardware.hash,
            stack=fingerprint.stack.hash,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A one-time admission; only its hash is kept."""

    hash: str  # sha256:… of the token text
    created_at: float
    expires_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    used_by: str = ""  # device name
    used_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a variant must keep to. Null means not asked."""

    accuracy_drop_max: float | None = None  # absolute, against fp32 on the same inputs
    slice_drop_max: float | None = None  # the same for every class and named slice
    flips_max: float | None = None  # share that fp32 gets right and the variant wrong
    recall_drop_max: float | None = None  # of a detector, at each variant's own threshold
    agreement_min: float | None = None
    latency_p95_max_ms: float | None = None
    file_bytes_max: int | None = None
    wire_bytes_max: int | None = None
    peak_memory_max_bytes: int | None = None
    energy_max_mj: float | None = None
    lesser_accuracy_drop_max: float | None = None  # of lesser variants; set: releases have a ladder
    prefer: str | None = None  # of what keeps to all of it: the fastest, or "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A registered workload: a snapshot of its files under one digest."""

    id: str  # uuid7
    name: str  # model name, also the slot's
    version: str
    digest: str  # of the snapshot
    snapshot: str  # folder
    registered_at: float
    budget: Budget = field(default_factory=Budget)
    profile_budgets: Mapping[str, Budget] = field(default_factory=dict)
    calibrate_profiles: tuple[str, ...] = ()  # profiles whose release asks for calibration
    fp32_accuracy: float | None = None
    fp32_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One recipe's result for one target, with its evidence.

    ``guard_*`` figures come from the guard set (held out of training, disjoint from the
    calibration set) and are the only ones that may choose; ``accuracy`` and its interval come
    from the test set and are reported.
    """

    name: str
    bundle: BundleRef
    model: str  # model version id
    format: str
    runtime: str
    scheme: str
    recipe: tuple[str, ...]
    recipe_digest: str
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    agreement: float
    sqnr_db: float | None
    guard_accuracy: float | None
    guard_accuracy_drop: float | None
    guard_agreement: float
    integer_coverage: float | None
    file_bytes: int
    wire_bytes: int
    macs: int
    predicted: Cost | None = None
    predicted_parts: Mapping[str, float] = field(default_factory=dict)  # uncorrected, ms by kind
    host_latency: Cost | None = None  # timed on the controller's machine; never a device's
    calibratable: bool = False
    patchable: bool = False  # calibration may change the file, too, for who loads it by itself
    slices: tuple[SliceEvidence, ...] = ()
    flips: float | None = None  # of test inputs; None where the outputs are no class scores
    guard_flips: float | None = None
    must_pass_failed: int | None = None  # None: the workload has no such set
    operating: OperatingPoint | None = None  # None: the workload is no detector
    guard_accuracy_interval: tuple[float, float] | None = None  # 95 %
    lineage: Mapping[str, str] = field(default_factory=dict)


class JobStatus(enum.Enum):
    """Where a fit job stands."""

    QUEUED = "queued"  # nothing was done yet
    PROBING = "probing"  # a device of the cohort times the kernels
    RUNNING = "running"  # a worker makes variants
    CONFIRMING = "confirming"  # a device of the cohort times the best few
    DONE = "done"  # its result is stored
    FAILED = "failed"  # it cannot be done; the reason is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which variant a cohort gets, and why."""

    chosen: str  # variant digest, empty when none meets the budget
    reason: str
    ranked: tuple[str, ...] = ()  # digests, best first
    rejected: Mapping[str, str] = field(default_factory=dict)  # digest -> why


EXTRA_RUNGS = ("slimmable",)
"""Kinds of variants that a fit makes where they are asked for, whatever its effort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """One fit of a model version to one cohort."""

    id: str
    model: str  # model version id
    cohort: Cohort
    status: JobStatus
    created_at: float
    effort: str = "quick"
    rungs: tuple[str, ...] = ()  # of `EXTRA_RUNGS`
    trigger: str = ""  # trigger id that asked for it
    folder: str = ""
    step: str = ""
    fraction: float = 0.0  # progress, 0..1
    error: str = ""
    finished_at: float = 0.0
    cached: bool = False
    variants: tuple[Variant, ...] = ()
    fp32_accuracy: float | None = None
    fp32_bytes: int | None = None
    scheme_reasons: Mapping[str, str] = field(default_factory=dict)  # runtime -> why these
    remarks: tuple[str, ...] = ()  # what a reader of its figures should know
    studies: tuple[str, ...] = ()  # put to devices for this job
    measured: Mapping[str, Measurement] = field(default_factory=dict)  # what the choice went by
    fresh_since: float = 0.0  # what was measured before tells of another level; 0: all counts
    climbs_from: str = ""  # variant above which accuracy needs time to spare
    level_ms: float = 0.0  # tail of that variant as the field has it; 0: not known
    residuals: tuple[Residual, ...] = ()  # that corrected its predictions
    choice: Choice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One lesser variant on a cohort's ladder."""

    variant: str  # digest
    relieves: tuple[Pressure, ...] = ()  # of these it takes less than the chosen one
    portable: bool = False  # plain floating point, for a stack on which the chosen one fails
    reason: str = ""
    stacks: tuple[str, ...] = ()  # hashes: it is for these alone, and first there; empty: any
    coverage_min: float | None = None  # of heavy operators in integers, where it serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model version and the variants chosen for it."""

    id: str
    model: str  # model version id
    slot: str
    counter: int
    created_at: float
    variants: Mapping[str, str] = field(default_factory=dict)  # cohort key or profile -> digest
    reasons: Mapping[str, str] = field(default_factory=dict)  # the same keys -> why
    calibration: Mapping[str, CalibrationPlan] = field(default_factory=dict)  # the same keys
    gates: Mapping[str, DeviceGates] = field(default_factory=dict)  # the same keys
    ladders: Mapping[str, tuple[Rung, ...]] = field(default_factory=dict)  # the same keys
    ladder_notes: Mapping[str, str] = field(default_factory=dict)  # what they lack, and why
    approved_at: float = 0.0


class RolloutState(enum.Enum):
    """Where a rollout stands."""

    DRAFT = "draft"  # not started
    AWAITING_APPROVAL = "awaiting_approval"  # an operator must say yes
    RUNNING = "running"  # waves are admitted
    PAUSED = "paused"  # nothing new is admitted
    HALTED = "halted"  # a gate failed
    REVERTING = "reverting"  # updated devices go back
    REVERTED = "reverted"  # all that could went back
    COMPLETED = "completed"  # every device ended
    CANCELLED = "cancelled"  # given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What must hold before the next wave. Null means not asked."""

    max_failure_share: float = 0.0  # of devices of a cohort; of those below agreement_min, too
    latency_ratio_max: float | None = 1.1  # p50 to the device's own baseline, interleaved
    latency_p95_ratio_max: float | None = None  # the same for p95, where both have one
    energy_ratio_max: float | None = None  # to what the device's last release took of it
    agreement_min: float | None = None
    agreement_drop_max: float | None = None  # below the device's own last, absolute
    memory_ratio_max: float | None = None  # peak, to the device's own last
    thermal_share_max: float | None = None  # of devices that it throttles and the last one did not
    coverage_min: float | None = None  # share of heavy operators that run in integers
    coverage_drop_max: float | None = None  # below the device's own last, absolute
    field_drop_max: float | None = None  # of field accuracy below the release before, absolute
    must_pass: bool = False  # answers labelled as such are never wrong
    above_share: float = 0.5  # of devices that may exceed a ratio; a half: the median is judged
    min_sample: int = 1
    false_halt_rate: float = 0.05  # of the whole rollout, over its gates, waves and cohorts
    too_few: TooFew = TooFew.PROCEED
    shadow_s: float = 0.0  # of live inputs, unheard, that each device shows it before it switches
    shadow_inputs: int = 100  # of which it should see so many
    open_most: int = 30  # admitted and not ended in a cohort, until as many have ended
    cluster: str = ""  # label whose devices fail together, such as "site"; empty: each by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A release going to a selector of devices."""

    id: str
    release: str
    state: RolloutState
    created_at: float
    selector: Mapping[str, str] = field(default_factory=dict)  # labels/profile/name; empty: all
    where: str = ""  # an expression (`selection`) beside it, as it was when the rollout was made
    group: str = ""  # whose expression that is; empty: it was given as it is
    devices: tuple[str, ...] = ()  # explicit list, in admission order; empty: by selector
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)  # cumulative shares; at least one device each
    wave: int = 0
    wave_started_at: float = 0.0
    soak_s: float = 0.0
    gate: Gate = field(default_factory=Gate)
    deadline_s: float = 3600.0  # for each deployment
    windows: tuple[str, ...] = ()  # "Mon-Fri 02:00 +2h Europe/Berlin"; empty: at any time
    windows_end: float = 0.0  # when the last one closes for good; 0: they repeat, or there are none
    reasons: tuple[str, ...] = ()
    revert_release: str = ""
    trigger: str = ""
    pending: tuple[str, ...] = ()  # offline when it completed; admitted when they come back
    acknowledged: tuple[str, ...] = ()  # deployments whose failure an operator has accepted
    retried: tuple[str, ...] = ()  # deployments whose device has another turn
    asks: str = ""  # what an operator is asked; empty: nothing
    answered: int = -1  # the last wave that an operator let pass without statistics
    control_share: float = 0.0  # of devices that stay on what they run, to compare with
    control_by: str = ""  # label whose devices stay together, such as "site"; empty: each alone
    control_s: float = 0.0  # for so long after the last wave; then they get the release, too
    control_below: float = 0.0  # the mark of the draw (`holding`); 0: nobody is held
    control_ended_at: float = 0.0  # when they were let go; 0: not yet
    control_wave: int = -1  # the last wave at which they timed again what they run
    control_studies: tuple[str, ...] = ()  # that they were asked
    asks_after: int = -1  # wave after which an operator is asked, whatever statistics say
    metered: bool = False  # it may come over metered links


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One device's way through one release."""

    id: str
    rollout: str
    release: str
    device: str
    slot: str
    variant: str
    wave: int
    created_at: float
    state: DeploymentState = DeploymentState.IDLE
    outcome: Outcome | None = None
    ended_at: float = 0.0
    reasons: tuple[str, ...] = ()
    measurement: Measurement | None = None
    calibration: CalibrationReport | None = None
    overlay: str = ""  # blob digest of the overlay that the device submitted
    cohort: Cohort | None = None  # of the device when it was admitted
    held: str = ""  # why its transfer waits for the device's allowance; empty: it does not
    fingerprint: Fingerprint | None = None  # the same moment's, to say later what changed
    windows: tuple[Span, ...] = ()  # when the device may switch, as it was told
    held_back: bool = False  # taken back while it waited for a window; it may be admitted again
    energy_before_mj: float | None = None  # of one inference of what ran there, if it was measured
    before: Footprint | None = None  # of what ran there, where a gate compares with it
    fetched_bytes: int = 0  # that came over the wire, as the device says
    delta_base: str = ""  # variant that the device rebuilt it from; empty: it came whole
    attempt: int = 1  # of this device in its rollout; an operator asked for those after the first


class TriggerKind(enum.Enum):
    """Why to fit again."""

    HARDWARE_CHANGED = "hardware_changed"  # another hardware hash
    STACK_CHANGED = "stack_changed"  # another stack hash
    BUDGET_MISSED = "budget_missed"  # measured outside the budget
    SHIFTED = "shifted"  # all of a cohort became slower or faster, at the same heat
    AFFORDABLE = "affordable"  # a cohort has time to spare for a more accurate variant
    NEW_PROFILE = "new_profile"  # a cohort without a fit
    FIELD_FELL = "field_fell"  # labels that came late show worse answers than before


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A stated reason to fit again for a cohort, and what came of it."""

    id: str
    kind: TriggerKind
    device: str  # the first that raised it
    model: str
    cohort: Cohort
    reason: str
    created_at: float
    before: str = ""  # variant digest that ran
    job: str = ""
    release: str = ""
    rollout: str = ""
    closed_at: float = 0.0
    result: str = ""
    devices: Mapping[str, float] = field(default_factory=dict)  # all it is for -> when they joined
    by_level: bool = False  # what its devices' telemetry showed raised it, over days
    shift: float = 0.0  # of the cohort when it was raised; a later level is compared with it
    same_heat: float | None = None  # the same at the same heat; None: not known then
    level_ms: float = 0.0  # tail of `before` in the field then; 0: not known
    waits: str = ""  # what it waits for, and how to go on; empty: nothing

    @property
    def joined(self) -> Mapping[str, float]:
        """Devices and when they joined; an old record has the first one only."""
        return self.devices or {self.device: self.created_at}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision or act, with its numbers."""

    id: str
    at: float
    actor: str  # "operator:…", "device:…", "controller", or "operator" who has no name
    action: str
    subject: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an operator's request with a key of its own was answered; asking again gets the same."""

    key: str
    request: str  # sha256 of what was asked
    at: float
    body: str  # JSON; empty: a secret that was shown once
