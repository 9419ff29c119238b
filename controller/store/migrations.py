"""The schema's version, and the numbered steps from each to the next.

A new database is made as it is now. An older one takes each step once, and each step commits
together with its number, so that a controller killed half-way goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, inspect
from sqlmodel import SQLModel, col, insert, select, update

from controller.errors import UserError
from controller.store.tables import SettingRow

Step = Callable[[Connection], None]


_KEEP_ROLLUPS = """\
ALTER TABLE batch ADD COLUMN newest_s FLOAT NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN rolled INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sample_batch ON sample (batch);
UPDATE batch SET newest_s =
  coalesce((SELECT max(wall_s) FROM sample WHERE sample.batch = batch.id), 0);
CREATE INDEX batch_to_roll ON batch (tenant, device) WHERE rolled = 0;
CREATE INDEX batch_age ON batch (tenant, newest_s) WHERE rolled = 1 AND rows > 0;
CREATE TABLE outbox (
  tenant VARCHAR NOT NULL, device VARCHAR NOT NULL, outbox VARCHAR NOT NULL,
  acked INTEGER NOT NULL, forgotten INTEGER NOT NULL, PRIMARY KEY (tenant, device, outbox));
CREATE TABLE rollup (
  id INTEGER NOT NULL, tenant VARCHAR NOT NULL, period VARCHAR NOT NULL, start_s INTEGER NOT NULL,
  quantity VARCHAR NOT NULL, device VARCHAR NOT NULL, profile VARCHAR NOT NULL,
  variant VARCHAR NOT NULL, "release" VARCHAR NOT NULL, count INTEGER NOT NULL,
  least FLOAT NOT NULL, most FLOAT NOT NULL, total FLOAT NOT NULL, sketch TEXT NOT NULL,
  PRIMARY KEY (id), CONSTRAINT rollup_key
  UNIQUE (tenant, period, device, quantity, start_s, variant, "release", profile));
CREATE INDEX rollup_time ON rollup (tenant, period, start_s, quantity);
CREATE TABLE tally (
  tenant VARCHAR NOT NULL, name VARCHAR NOT NULL, value INTEGER NOT NULL,
  PRIMARY KEY (tenant, name));
INSERT INTO tally SELECT tenant, 'rows', sum(rows) FROM batch GROUP BY tenant;
INSERT INTO tally SELECT tenant, 'rows_ever', sum(rows) FROM batch GROUP BY tenant
"""


def _keep_rollups(connection: Connection) -> None:
    """Telemetry gets rollups and retention; what is there will be rolled up like what comes.

    What devices were told to have arrived is not known of before: it is found again from the
    batches at the next one that comes.
    """
    for statement in _KEEP_ROLLUPS.split(";\n"):
        connection.exec_driver_sql(statement)


def _keep_answers(connection: Connection) -> None:
    """Answers to requests with a key of their own."""
    connection.exec_driver_sql(
        "CREATE TABLE answer (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, PRIMARY KEY (position),'
        ' CONSTRAINT answer_key UNIQUE (tenant, "key"))'
    )


def _keep_operators(connection: Connection) -> None:
    """Operators with tokens of their own."""
    connection.exec_driver_sql(
        "CREATE TABLE operator (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, hash VARCHAR NOT NULL,'
        ' PRIMARY KEY (position), CONSTRAINT operator_key UNIQUE (tenant, "key"))'
    )
    connection.exec_driver_sql("CREATE INDEX operator_hash ON operator (tenant, hash)")


def _keep_tickets(connection: Connection) -> None:
    """Service tickets."""
    connection.exec_driver_sql(
        "CREATE TABLE ticket (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, device VARCHAR NOT NULL,'
        " model VARCHAR NOT NULL, closed_at VARCHAR NOT NULL, PRIMARY KEY (position),"
        ' CONSTRAINT ticket_key UNIQUE (tenant, "key"))'
    )
    for name in ("device", "model", "closed_at"):
        connection.exec_driver_sql(f"CREATE INDEX ticket_{name} ON ticket (tenant, {name})")


def _keep_groups(connection: Connection) -> None:
    """Groups of devices, notes on them, and devices that wait to be let in."""
    for table, more in (("group_", ""), ("note", " device VARCHAR NOT NULL,"), ("applicant", "")):
        connection.exec_driver_sql(
            f"CREATE TABLE {table} (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
            f' "key" VARCHAR NOT NULL, document TEXT NOT NULL,{more} PRIMARY KEY (position),'
            f' CONSTRAINT {table}_key UNIQUE (tenant, "key"))'
        )
    connection.exec_driver_sql("CREATE INDEX note_device ON note (tenant, device)")


_KEEP_LABELS = (
    (
        "CREATE TABLE label_page (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, device VARCHAR NOT NULL,'
        ' PRIMARY KEY (position), CONSTRAINT label_page_key UNIQUE (tenant, "key"))'
    ),
    "CREATE INDEX label_page_device ON label_page (tenant, device)",
    (
        "CREATE TABLE field_tally (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, device VARCHAR NOT NULL,'
        ' "release" VARCHAR NOT NULL, variant VARCHAR NOT NULL,'
        ' PRIMARY KEY (position), CONSTRAINT field_tally_key UNIQUE (tenant, "key"))'
    ),
    "CREATE INDEX field_tally_device ON field_tally (tenant, device)",
    'CREATE INDEX field_tally_release ON field_tally (tenant, "release")',
    "CREATE INDEX field_tally_variant ON field_tally (tenant, variant)",
)


def _keep_labels(connection: Connection) -> None:
    """Labels from the field, and what they come to."""
    for statement in _KEEP_LABELS:
        connection.exec_driver_sql(statement)


def _keep_stacks(connection: Connection) -> None:
    """Announced stacks."""
    connection.exec_driver_sql(
        "CREATE TABLE stack (position INTEGER NOT NULL, tenant VARCHAR NOT NULL,"
        ' "key" VARCHAR NOT NULL, document TEXT NOT NULL, name VARCHAR NOT NULL,'
        " profile VARCHAR NOT NULL, closed_at VARCHAR NOT NULL, PRIMARY KEY (position),"
        ' CONSTRAINT stack_key UNIQUE (tenant, "key"))'
    )
    for name in ("name", "profile", "closed_at"):
        connection.exec_driver_sql(f"CREATE INDEX stack_{name} ON stack (tenant, {name})")


STEPS: tuple[Step, ...] = (
    _keep_rollups,
    _keep_answers,
    _keep_operators,
    _keep_tickets,
    _keep_groups,
    _keep_labels,
    _keep_stacks,
)
"""Step ``i`` leads from version ``i + 1`` to ``i + 2``; none is ever changed or removed."""

_KEY = "schema_version"
_MINE = (col(SettingRow.tenant) == "", col(SettingRow.key) == _KEY)


def check_version(version: int, name: str, newest: int = 1 + len(STEPS)) -> int:
    """Refuse what this Fitment cannot read.

    Raises:
        UserError: it was written by a newer one.
    """
    if version > newest:
        raise UserError(
            f"{name} was written by a newer Fitment (schema {version}, this one knows {newest}):"
            " upgrade Fitment, or restore an older backup"
        )
    return version


def migrate(engine: Engine, name: str, steps: Sequence[Step] = STEPS) -> int:
    """Bring the database up to date; returns its version.

    Raises:
        UserError: it was written by a newer Fitment.
    """
    newest = 1 + len(steps)
    if not inspect(engine).has_table("setting"):
        with _transaction(engine) as connection:
            SQLModel.metadata.create_all(connection)
            row = {"tenant": "", "key": _KEY, "value": str(newest)}
            connection.execute(insert(SettingRow).values(**row))
        return newest
    version = check_version(version_of(engine), name, newest)
    for number in range(version, newest):
        with _transaction(engine) as connection:
            steps[number - 1](connection)
            stamp = update(SettingRow).where(*_MINE).values(value=str(number + 1))
            connection.execute(stamp)
    return newest


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """One that holds table definitions too: the driver by itself begins none for them."""
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection


def version_of(engine: Engine) -> int:
    """The schema's version; one without a stamp was never finished and counts as the first."""
    with engine.connect() as connection:
        row = connection.execute(select(SettingRow.value).where(*_MINE)).first()
    return int(row[0]) if row else 1
