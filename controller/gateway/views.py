"""What REST answers beside plain records; the command line reads the same types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.domain import fleet
from controller.domain.belonging import DeviceGroup
from controller.domain.field import Slice
from controller.domain.judgement import Exposure, GateReport
from controller.domain.lease import Lease
from controller.domain.mix import Mix
from controller.domain.policy import Policy
from controller.domain.roles import Role
from controller.domain.stacks import DeviceStanding, StackAnnouncement
from controller.domain.telemetry import Rollup

FACT_HEADER = "x-fitment-"
"""How the headers begin that say what a downloaded file is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where this controller listens; ``data_dir/controller.json`` while it runs."""

    rest: str  # http://host:port
    enroll: str  # host:port, as devices are told
    gateway: str  # host:port
    mqtt: str  # host:port; empty: devices use the gRPC session
    link: str  # "mqtt" or "grpc"
    pid: int
    version: str
    dashboard: str = ""  # http://host:port/; empty: it is not served
    notes: tuple[str, ...] = ()  # what an operator should know about how it started


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole in one look."""

    addresses: Addresses
    link: str  # one line for people
    devices: int = 0
    online: int = 0
    models: int = 0
    jobs_active: int = 0
    rollouts_active: int = 0
    triggers_open: int = 0
    tickets_open: int = 0
    lease: Lease | None = None  # by which this controller acts; None: it has no database
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """How far the loop goes by itself."""

    model: str  # name; empty: all models that have none of their own
    policy: Policy  # what holds
    own: str = ""  # what was said for just this; empty: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """An enrolment token; its text is shown once."""

    text: str
    expires_at: float
    enroll: str  # host:port
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorView:
    """An operator, without anything of its token."""

    name: str
    role: Role
    created_at: float
    expires_at: float  # 0: it has no end
    revoked_at: float  # 0: it was not


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperator:
    """An operator's token; its text is shown once."""

    text: str
    operator: OperatorView


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A rollout and how each of its devices fares."""

    rollout: fleet.Rollout
    deployments: tuple[fleet.Deployment, ...] = ()
    gates: tuple[GateReport, ...] = ()  # of each cohort, as they stand now
    exposure: Exposure = field(default_factory=Exposure)
    left: Mapping[str, str] = field(default_factory=dict)  # no longer selected -> why
    control: tuple[str, ...] = ()  # devices that it holds back now, to compare with


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group, and how many devices it takes at this moment."""

    group: DeviceGroup
    members: int
    online: int
    note: str = ""  # why it takes nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class StackView:
    """An announced stack, and where each device stands beside it at this moment."""

    stack: StackAnnouncement
    devices: tuple[DeviceStanding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """Answers that were judged by labels, and how many were right."""

    name: str  # of the device, release, variant or slice
    count: int
    right: int
    accuracy: float | None  # null: nothing was judged
    low: float  # 95 %, Wilson
    high: float
    must: int  # answers that must never be wrong
    must_wrong: int
    corrections: int  # not in ``count``: nobody says how many answers were looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldView:
    """Field accuracy of a part of the fleet."""

    by: str
    rows: tuple[FieldRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutField:
    """What the field says of a rollout: new beside old beside its control group."""

    rollout: str
    rows: tuple[Slice, ...] = ()
    mix: tuple[Mix, ...] = ()  # of predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryView:
    """The newest values of one quantity of one device."""

    device: str
    column: str
    samples: int  # rows stored for the device, of all quantities
    values: tuple[tuple[float, float], ...] = ()  # (wall seconds, value), newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupView:
    """All values of one span; ``name`` is that of the device, variant, … it was asked by."""

    start_s: int
    name: str
    count: int
    min: float
    mean: float
    p50: float  # within 2 %, like all percentiles here
    p95: float
    max: float

    @classmethod
    def of(cls, rollup: Rollup, by: str) -> RollupView:
        """What is shown of a rollup."""
        return cls(
            start_s=rollup.start_s,
            name=str(getattr(rollup.origin, by)) if by else "",
            count=rollup.count,
            min=rollup.least,
            mean=rollup.mean,
            p50=rollup.quantile(0.5),
            p95=rollup.quantile(0.95),
            max=rollup.most,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesView:
    """One quantity over time, rolled up; oldest first."""

    column: str
    period: str  # "hour" or "day"
    by: str  # what the rows are told apart by; empty: all in one
    rows: tuple[RollupView, ...] = ()
