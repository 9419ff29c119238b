"""The store on SQLModel and SQLite (write-ahead log, synced on every commit).

One writer: the controller's engine thread. Statements are SQLAlchemy Core on the SQLModel
tables; `telemetry_sql` has the samples.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, bindparam, event, func, literal_column
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlmodel import SQLModel, col, create_engine, delete, insert, select, update

from controller.domain import fleet, studies
from controller.domain.belonging import Applicant, DeviceGroup, Note
from controller.domain.labels import FieldTally, LabelPage
from controller.domain.lease import Lease
from controller.domain.roles import Operator
from controller.domain.stacks import StackAnnouncement
from controller.domain.tickets import Ticket
from controller.errors import Conflict, LeaseLost, UserError
from controller.store import lease
from controller.store.base import INDEXED, KEYS, as_text, check_filters
from controller.store.migrations import migrate
from controller.store.session import Session, Statement
from controller.store.tables import ROWS, SettingRow
from controller.store.telemetry_sql import SqlTelemetry, add_functions
from fitment.core import plain

R = TypeVar("R")
_LEASE = (col(SettingRow.tenant) == "", col(SettingRow.key) == lease.KEY)


KNOWN = 20_000
"""Documents of each type whose record is kept beside them, so that they are not read again."""
PAGES_KNOWN = 16
"""The same of pages of labels, of which one may be some megabytes."""


class SqlCollection(Generic[R]):
    """Records of one type in their table.

    Statements are built once: building one takes longer than SQLite does to run it.
    """

    def __init__(self, session: Session, tenant: str, kind: type[R], *, known: int = KNOWN) -> None:
        self._session = session
        self._tenant = tenant
        self._kind = kind
        self._table = SQLModel.metadata.tables[str(ROWS[kind].__tablename__)]
        self._mine = self._table.c.tenant == tenant
        self._told: list[Callable[[str], None]] = []
        self._known_most = known
        self._known: OrderedDict[str, tuple[str, R]] = OrderedDict()
        same = (self._mine, self._table.c.key == bindparam("same", ""))
        sets = ("tenant", "key", "document", *INDEXED[kind])
        self._get = Statement(select(self._table.c.document).where(*same))
        self._update = Statement(update(self._table).where(*same), sets=sets)
        self._insert = Statement(insert(self._table), sets=sets)
        self._add = Statement(upsert(self._table).on_conflict_do_nothing(), sets=sets)
        self._finds: dict[tuple[str, ...], Statement] = {}

    def get(self, key: str) -> R | None:
        with self._session.transaction():
            row = self._session.run(self._get, {"same": key}).fetchone()
        return None if row is None else self._read(key, row[0])

    def put(self, record: R) -> None:
        values = self._values(record)
        self._tell(values["key"])
        with self._session.transaction():
            changed = self._session.run(self._update, {**values, "same": values["key"]})
            if changed.rowcount == 0:
                self._session.run(self._insert, values)
        self._know(values["key"], values["document"], record)

    def add(self, record: R) -> None:
        values = self._values(record)
        self._tell(values["key"])
        with self._session.transaction():
            if self._session.run(self._add, values).rowcount == 0:
                raise Conflict(f"{self._kind.__name__} '{values['key']}' is there already")
        self._know(values["key"], values["document"], record)

    def find(self, **equal: object) -> tuple[R, ...]:
        check_filters(self._kind, equal)
        names = tuple(sorted(equal))
        if names not in self._finds:
            wanted = [self._table.c[name] == bindparam(f"the_{name}", "") for name in names]
            found = select(self._table.c.key, self._table.c.document).where(self._mine, *wanted)
            self._finds[names] = Statement(found.order_by(self._table.c.position))
        values = {f"the_{name}": as_text(equal[name]) for name in names}
        with self._session.transaction():
            rows = self._session.run(self._finds[names], values).fetchall()
        return tuple(self._read(row[0], row[1]) for row in rows)

    def watch(self, told: Callable[[str], None]) -> None:
        self._told.append(told)

    def _tell(self, key: str) -> None:
        for told in self._told:
            told(key)

    def delete(self, key: str) -> bool:
        self._tell(key)
        gone = delete(self._table).where(self._mine, self._table.c.key == key)
        with self._session.transaction() as connection:
            return connection.execute(gone).rowcount > 0

    def page(
        self, limit: int, *, after: int = 0, newest: bool = False, **equal: object
    ) -> tuple[tuple[int, R], ...]:
        place = self._table.c.position
        beyond = place < after if newest else place > after
        # Without a filter SQLite would take an index that begins with the tenant and sort all of
        # it; the sign keeps it to the order of the rows.
        mine = self._mine if equal else literal_column("+tenant") == self._tenant
        query = (
            select(place, self._table.c.document, self._table.c.key)
            .where(mine, *self._wanted(equal), *([beyond] if after else []))
            .order_by(place.desc() if newest else place)
            .limit(limit)
        )
        with self._session.transaction() as connection:
            rows = connection.execute(query).all()
        return tuple((int(row[0]), self._read(row[2], row[1])) for row in rows)

    def tally(self, *by: str, **equal: object) -> Mapping[tuple[str, ...], int]:
        fields = {field.name for field in dataclasses.fields(self._kind)}  # type: ignore[arg-type]
        if not by or not set(by) <= fields:
            raise ValueError(f"{self._kind.__name__} cannot be told apart by {', '.join(by)}")
        said: list[Any] = [literal_column(f"document -> '$.{name}'") for name in by]
        counted: list[Any] = [*said, func.count()]
        query: Any = select(*counted).select_from(self._table)
        query = query.where(self._mine, *self._wanted(equal)).group_by(*said)
        with self._session.transaction() as connection:
            rows = connection.execute(query).all()
        return {tuple(as_text(json.loads(value)) for value in row[:-1]): row[-1] for row in rows}

    def _wanted(self, equal: Mapping[str, object]) -> list[Any]:
        check_filters(self._kind, equal)
        return [self._table.c[name] == as_text(value) for name, value in equal.items()]

    def _values(self, record: R) -> dict[str, str]:
        indexed = {name: as_text(getattr(record, name)) for name in INDEXED[self._kind]}
        return {
            "tenant": self._tenant,
            "key": str(getattr(record, KEYS[self._kind])),
            "document": json.dumps(plain.to_plain(record)),
            **indexed,
        }

    def _read(self, key: str, document: str) -> R:
        """The record of a document; the one that was read or written before, if it is the same.

        What decides is the text that the database gave, so nothing here can be out of date.
        """
        known = self._known.get(key)
        if known is not None and known[0] == document:
            self._known.move_to_end(key)
            return known[1]
        record = plain.from_plain(self._kind, json.loads(document))
        self._know(key, document, record)
        return record

    def _know(self, key: str, document: str, record: R) -> None:
        self._known[key] = (document, record)
        self._known.move_to_end(key)
        if len(self._known) > self._known_most:
            self._known.popitem(last=False)


class SqlStore:
    """Everything the controller remembers for one tenant, in one SQLite file."""

    def __init__(self, path: Path, tenant: str) -> None:
        self.tenant = tenant
        self._engine = _open(path)
        session = self._session = Session(self._engine)
        self.devices = SqlCollection(session, tenant, fleet.Device)
        self.tokens = SqlCollection(session, tenant, fleet.Token)
        self.operators = SqlCollection(session, tenant, Operator)
        self.models = SqlCollection(session, tenant, fleet.ModelVersion)
        self.jobs = SqlCollection(session, tenant, fleet.FitJob)
        self.studies = SqlCollection(session, tenant, studies.StudyRecord)
        self.releases = SqlCollection(session, tenant, fleet.Release)
        self.rollouts = SqlCollection(session, tenant, fleet.Rollout)
        self.deployments = SqlCollection(session, tenant, fleet.Deployment)
        self.triggers = SqlCollection(session, tenant, fleet.Trigger)
        self.tickets = SqlCollection(session, tenant, Ticket)
        self.stacks = SqlCollection(session, tenant, StackAnnouncement)
        self.audit = SqlCollection(session, tenant, fleet.AuditEntry)
        self.answers = SqlCollection(session, tenant, fleet.Answer)
        self.pages = SqlCollection(session, tenant, LabelPage, known=PAGES_KNOWN)
        self.tallies = SqlCollection(session, tenant, FieldTally)
        self.groups = SqlCollection(session, tenant, DeviceGroup)
        self.notes = SqlCollection(session, tenant, Note)
        self.applicants = SqlCollection(session, tenant, Applicant)
        self.telemetry = SqlTelemetry(session, tenant)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._session.transaction():
            yield

    def setting(self, key: str) -> str | None:
        query = select(SettingRow.value).where(*self._named(key))
        with self._session.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else str(row[0])

    def set_setting(self, key: str, value: str) -> None:
        changed = update(SettingRow).where(*self._named(key)).values(value=value)
        with self._session.transaction() as connection:
            if connection.execute(changed).rowcount == 0:
                row = {"tenant": self.tenant, "key": key, "value": value}
                connection.execute(insert(SettingRow).values(**row))

    def fence(self, number: int) -> None:
        """From now on nothing is committed once another lease than this has been taken.

        The look at the lease and the commit are one: who takes it needs the lock that is held.
        """

        def check(connection: Connection) -> None:
            row = connection.execute(select(SettingRow.value).where(*_LEASE)).first()
            if row is None or lease.decode(str(row[0])).number != number:
                raise LeaseLost("another controller acts on this database; nothing was changed")

        self._session.before_commit = check

    def swap_lease(self, before: Lease, after: Lease) -> bool:
        """Renew, or give back; says if it was still as ``before``."""
        held = (*_LEASE, col(SettingRow.value) == lease.encode(before))
        changed = update(SettingRow).where(*held).values(value=lease.encode(after))
        try:
            with self._session.transaction() as connection:
                return connection.execute(changed).rowcount > 0
        except LeaseLost:
            return False

    def close(self) -> None:
        self._engine.dispose()

    def _named(self, key: str) -> tuple[Any, Any]:
        return (col(SettingRow.tenant) == self.tenant, col(SettingRow.key) == key)


def _open(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _set_pragmas)
    try:
        migrate(engine, str(path))
    except UserError:
        engine.dispose()
        raise
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    add_functions(connection)
