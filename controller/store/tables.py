"""Tables: a key, the indexed fields as columns, and the record as a document.

Rows are not domain types: a record's new optional field needs no migration, since the document
takes it and old documents get the default (`fitment.core.plain`). Only an index needs one.
"""

from __future__ import annotations

from sqlalchemy import Float, Index, Integer, String, Text
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 1


class Record(SQLModel, table=True):
    """One record of any collection."""

    __tablename__ = "record"
    __table_args__ = (
        Index("record_first", "tenant", "collection", "first"),
        Index("record_second", "tenant", "collection", "second"),
        Index("record_third", "tenant", "collection", "third"),
    )

    position: int | None = Field(default=None, primary_key=True)
    tenant: str = Field(sa_type=String, index=False)
    collection: str = Field(sa_type=String)
    key: str = Field(sa_type=String)
    first: str = Field(default="", sa_type=String)
    second: str = Field(default="", sa_type=String)
    third: str = Field(default="", sa_type=String)
    document: str = Field(sa_type=Text)


class Setting(SQLModel, table=True):
    """A named text, the schema's version among them."""

    __tablename__ = "setting"

    tenant: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    value: str


class Batch(SQLModel, table=True):
    """A telemetry batch that was stored."""

    __tablename__ = "batch"

    tenant: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    outbox: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True, sa_type=Integer)
    rows: int = Field(sa_type=Integer)
    tags: str = Field(default="{}", sa_type=Text)


class Sample(SQLModel, table=True):
    """One value of one quantity; what a sensor had nothing to say about has no row."""

    __tablename__ = "sample"
    __table_args__ = (Index("sample_series", "tenant", "device", "quantity", "wall_s"),)

    id: int | None = Field(default=None, primary_key=True)
    tenant: str
    device: str
    quantity: str
    wall_s: float = Field(sa_type=Float)
    value: float = Field(sa_type=Float)
    outbox: str
    sequence: int = Field(sa_type=Integer)
