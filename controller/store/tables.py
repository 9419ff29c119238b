"""Tables: one a record type, with its key, its indexed fields as columns, and the document.

Rows are not domain types: a record's new optional field needs no migration, since the document
takes it and old documents get the default (`fitment.core.plain`). Only an index needs one.
Indexed columns hold text (see `sql.as_text`), because they are only ever compared for equality.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from controller.domain import fleet, studies
from controller.domain.belonging import Applicant, DeviceGroup, Note
from controller.domain.labels import FieldTally, LabelPage
from controller.domain.roles import Operator
from controller.domain.stacks import StackAnnouncement
from controller.domain.tickets import Ticket


class Row(SQLModel):
    """What every record's row has. ``position`` keeps the order of insertion."""

    position: int | None = Field(default=None, primary_key=True)
    tenant: str
    key: str
    document: str = Field(sa_type=Text)


def _keyed(table: str, *indexed: str) -> tuple[UniqueConstraint | Index, ...]:
    """A key unique within its tenant, and an index for each field that ``find`` takes."""
    return (
        UniqueConstraint("tenant", "key", name=f"{table}_key"),
        *(Index(f"{table}_{name}", "tenant", name) for name in indexed),
    )


class DeviceRow(Row, table=True):
    """`fleet.Device`."""

    __tablename__ = "device"
    __table_args__ = _keyed("device", "profile", "revoked")
    profile: str
    revoked: str


class TokenRow(Row, table=True):
    """`fleet.Token`."""

    __tablename__ = "token"
    __table_args__ = _keyed("token", "used_by")
    used_by: str


class OperatorRow(Row, table=True):
    """`roles.Operator`."""

    __tablename__ = "operator"
    __table_args__ = _keyed("operator", "hash")
    hash: str


class ModelRow(Row, table=True):
    """`fleet.ModelVersion`."""

    __tablename__ = "model"
    __table_args__ = _keyed("model", "name", "digest")
    name: str
    digest: str


class JobRow(Row, table=True):
    """`fleet.FitJob`."""

    __tablename__ = "job"
    __table_args__ = _keyed("job", "model", "status")
    model: str
    status: str


class StudyRow(Row, table=True):
    """`studies.StudyRecord`."""

    __tablename__ = "study"
    __table_args__ = _keyed("study", "device", "kind", "done_at")
    device: str
    kind: str
    done_at: str


class ReleaseRow(Row, table=True):
    """`fleet.Release`."""

    __tablename__ = "release_"  # `release` is a keyword of SQL
    __table_args__ = _keyed("release_", "model", "slot")
    model: str
    slot: str


class RolloutRow(Row, table=True):
    """`fleet.Rollout`."""

    __tablename__ = "rollout"
    __table_args__ = _keyed("rollout", "release", "state")
    release: str
    state: str


class DeploymentRow(Row, table=True):
    """`fleet.Deployment`."""

    __tablename__ = "deployment"
    __table_args__ = _keyed("deployment", "rollout", "device", "release", "outcome")
    rollout: str
    device: str
    release: str
    outcome: str


class TriggerRow(Row, table=True):
    """`fleet.Trigger`."""

    __tablename__ = "trigger_"  # `trigger` is a keyword of SQL
    __table_args__ = _keyed("trigger_", "device", "model", "closed_at")
    device: str
    model: str
    closed_at: str


class TicketRow(Row, table=True):
    """`tickets.Ticket`."""

    __tablename__ = "ticket"
    __table_args__ = _keyed("ticket", "device", "model", "closed_at")
    device: str
    model: str
    closed_at: str


class StackRow(Row, table=True):
    """`stacks.StackAnnouncement`."""

    __tablename__ = "stack"
    __table_args__ = _keyed("stack", "name", "profile", "closed_at")
    name: str
    profile: str
    closed_at: str


class AuditRow(Row, table=True):
    """`fleet.AuditEntry`."""

    __tablename__ = "audit"
    __table_args__ = _keyed("audit", "action", "subject")
    action: str
    subject: str


class AnswerRow(Row, table=True):
    """`fleet.Answer`."""

    __tablename__ = "answer"
    __table_args__ = _keyed("answer")


class PageRow(Row, table=True):
    """`labels.LabelPage`."""

    __tablename__ = "label_page"
    __table_args__ = _keyed("label_page", "device")
    device: str


class FieldTallyRow(Row, table=True):
    """`labels.FieldTally`."""

    __tablename__ = "field_tally"
    __table_args__ = _keyed("field_tally", "device", "release", "variant")
    device: str
    release: str
    variant: str


class GroupRow(Row, table=True):
    """`belonging.DeviceGroup`."""

    __tablename__ = "group_"  # `group` is a keyword of SQL
    __table_args__ = _keyed("group_")


class NoteRow(Row, table=True):
    """`belonging.Note`."""

    __tablename__ = "note"
    __table_args__ = _keyed("note", "device")
    device: str


class ApplicantRow(Row, table=True):
    """`belonging.Applicant`."""

    __tablename__ = "applicant"
    __table_args__ = _keyed("applicant")


ROWS: Mapping[type, type[Row]] = {
    fleet.Device: DeviceRow,
    fleet.Token: TokenRow,
    Operator: OperatorRow,
    fleet.ModelVersion: ModelRow,
    fleet.FitJob: JobRow,
    studies.StudyRecord: StudyRow,
    fleet.Release: ReleaseRow,
    fleet.Rollout: RolloutRow,
    fleet.Deployment: DeploymentRow,
    fleet.Trigger: TriggerRow,
    Ticket: TicketRow,
    StackAnnouncement: StackRow,
    fleet.AuditEntry: AuditRow,
    fleet.Answer: AnswerRow,
    LabelPage: PageRow,
    FieldTally: FieldTallyRow,
    DeviceGroup: GroupRow,
    Note: NoteRow,
    Applicant: ApplicantRow,
}
"""Record type to row type."""


class SettingRow(SQLModel, table=True):
    """A named text; the schema's version is the one of no tenant."""

    __tablename__ = "setting"
    tenant: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    value: str


NOT_ROLLED = "rolled = 0"
FORGETTABLE = "rolled = 1 AND rows > 0"
"""Conditions of partial indexes; a query must use the same words to get them."""


class BatchRow(SQLModel, table=True):
    """A telemetry batch that was stored, once by (device, outbox, sequence).

    It outlives its samples, with no rows, for as long as a batch before it may still come.
    """

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("tenant", "device", "outbox", "sequence", name="batch_key"),
        Index("batch_to_roll", "tenant", "device", sqlite_where=text(NOT_ROLLED)),
        Index("batch_age", "tenant", "newest_s", sqlite_where=text(FORGETTABLE)),
    )
    id: int | None = Field(default=None, primary_key=True)
    tenant: str
    device: str
    outbox: str
    sequence: int
    rows: int
    boot_id: str
    tags: str = Field(sa_type=Text)
    newest_s: float = Field(sa_type=Float)  # of its samples
    rolled: int  # 1: its samples are in the rollups


class OutboxRow(SQLModel, table=True):
    """What a device was told to have arrived; it outlives batches and samples."""

    __tablename__ = "outbox"
    tenant: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    outbox: str = Field(primary_key=True)
    acked: int  # everything up to here is stored, or gone for good on the device
    forgotten: int  # batches up to here are known by this number alone


class SampleRow(SQLModel, table=True):
    """One value of one quantity; null where a sensor had nothing to say."""

    __tablename__ = "sample"
    __table_args__ = (
        Index("sample_series", "tenant", "device", "quantity", "wall_s"),
        Index("sample_batch", "batch"),
    )
    id: int | None = Field(default=None, primary_key=True)
    batch: int = Field(
        sa_column=Column(Integer, ForeignKey("batch.id", ondelete="CASCADE"), nullable=False)
    )
    tenant: str = Field(sa_type=String)
    device: str = Field(sa_type=String)
    quantity: str = Field(sa_type=String)
    wall_s: float = Field(sa_type=Float)
    value: float | None = Field(default=None, sa_type=Float)


class RollupRow(SQLModel, table=True):
    """`telemetry.Rollup`."""

    __tablename__ = "rollup"
    __table_args__ = (
        UniqueConstraint(
            "tenant", "period", "device", "quantity", "start_s", "variant", "release", "profile",
            name="rollup_key",
        ),
        Index("rollup_time", "tenant", "period", "start_s", "quantity"),
    )  # fmt: skip
    id: int | None = Field(default=None, primary_key=True)
    tenant: str
    period: str
    start_s: int
    quantity: str
    device: str
    profile: str
    variant: str
    release: str
    count: int
    least: float = Field(sa_type=Float)
    most: float = Field(sa_type=Float)
    total: float = Field(sa_type=Float)
    sketch: str = Field(sa_type=Text)


class TallyRow(SQLModel, table=True):
    """How much there is of something that would take long to count."""

    __tablename__ = "tally"
    tenant: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    value: int
