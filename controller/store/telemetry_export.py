"""Samples as they were sent, read for an export: a device and a span of time at once.

Both go by the index on (tenant, device, quantity, time): nothing is read that is left out.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, func
from sqlmodel import col, select

from controller.domain.telemetry import Sample
from controller.store.tables import BatchRow, SampleRow


def quantities(connection: Connection, tenant: str, device: str) -> tuple[str, ...]:
    """Names of all that a device sent and that is kept: from each to the next by the index."""
    found: list[str] = []
    mine = (col(SampleRow.tenant) == tenant, col(SampleRow.device) == device)
    while True:
        after = [col(SampleRow.quantity) > found[-1]] if found else []
        query = select(func.min(col(SampleRow.quantity))).where(*mine, *after)
        name = connection.execute(query).scalar()
        if name is None:
            return tuple(found)
        found.append(str(name))


def next_sample_s(connection: Connection, tenant: str, device: str, since_s: float) -> float | None:
    """When its first sample not older than that was taken."""
    first: float | None = None
    for name in quantities(connection, tenant, device):
        query = select(func.min(col(SampleRow.wall_s))).where(
            col(SampleRow.tenant) == tenant, col(SampleRow.device) == device,
            col(SampleRow.quantity) == name, col(SampleRow.wall_s) >= since_s,
        )  # fmt: skip
        at = connection.execute(query).scalar()
        if at is not None and (first is None or at < first):
            first = float(at)
    return first


def samples(
    connection: Connection, tenant: str, device: str, since_s: float, until_s: float
) -> tuple[Sample, ...]:
    """All of a device in ``since_s <= time < until_s``, oldest first."""
    names = quantities(connection, tenant, device)
    columns: list[Any] = [
        SampleRow.batch, SampleRow.wall_s, SampleRow.quantity, SampleRow.value, BatchRow.boot_id,
        BatchRow.tags,
    ]  # fmt: skip
    query = (
        select(*columns)
        .join(BatchRow, col(BatchRow.id) == col(SampleRow.batch))
        .where(
            col(SampleRow.tenant) == tenant, col(SampleRow.device) == device,
            col(SampleRow.quantity).in_(names),
            col(SampleRow.wall_s) >= since_s, col(SampleRow.wall_s) < until_s,
        )
    )  # fmt: skip
    found: dict[tuple[float, int], Sample] = {}
    for batch, wall_s, quantity, value, boot_id, tags in connection.execute(query):
        sample = found.get((wall_s, batch))
        if sample is None:
            sample = found[wall_s, batch] = Sample(
                device=device, wall_s=wall_s, boot_id=boot_id, tags=json.loads(tags), values={}
            )
        sample.values[quantity] = value
    return tuple(found[key] for key in sorted(found))
