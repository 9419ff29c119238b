"""The journal: what the supervisor must know after its own death or a power loss.

One SQLite file, written by one process, durable at every commit (WAL, ``synchronous=FULL``).
Records are JSON by `fitment.core.plain`, so that an older agent reads a newer one's. A journal
that is damaged is moved aside and begun anew: the device goes on, slots are read back from
disk, and the reported notes say so. Before a new version changes it a copy is kept, for the day on
which the old version comes back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from agent import durable
from agent.domain.record import FORMAT, DeploymentRecord, SlotFacts
from agent.errors import JournalError
from fitment.core import plain
from fitment.core.deployment import DeploymentState

T = TypeVar("T")

_MIGRATIONS: Final = (
    """
    CREATE TABLE deployments (
        id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, state TEXT NOT NULL, record TEXT NOT NULL
    );
    CREATE TABLE slots (slot TEXT PRIMARY KEY, facts TEXT NOT NULL);
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE studies (id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, note TEXT NOT NULL);
    CREATE TABLE submissions (
        id TEXT PRIMARY KEY, tries INTEGER NOT NULL, job TEXT NOT NULL
    );
    CREATE TABLE outbox (sequence INTEGER PRIMARY KEY, batch TEXT NOT NULL);
    """,
    """
    CREATE TABLE quarantine (key TEXT PRIMARY KEY, failures INTEGER NOT NULL);
    """,
)
"""One script a version; ``user_version`` counts those that were run.

A script that only makes new tables leaves `_OLDEST` as it is: an agent that went back to an older
version goes on with such a journal. Any other raises it, and that agent takes the copy from before.
"""

_OLDEST: Final = 1
"""Agents that know this many scripts may use a journal of ours; kept as ``application_id``."""

KEPT_ENDED: Final = 16
"""Ended deployments that are reported until the controller knows of them."""
KEPT_KNOWN: Final = 256
"""Ended deployments whose ids are remembered, so that no old message starts one again."""
KEPT_STUDIES: Final = 256


_COPY: Final = ".before-"
"""Beside the journal, with the version that it had."""


class _Newer(JournalError):
    """A newer agent wrote it, in a way that this one does not understand."""


class Journal:
    """The open journal."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, lost: str = "") -> None:
        self._db = connection
        self._path = path
        self.lost = lost  # why an earlier journal was moved aside; empty: it was not

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when it ends. One inside another is part of it.

        Raises:
            JournalError: the disk refuses.
        """
        if self._db.in_transaction:
            yield self._db
            return
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                durable.commit(self._db, self._path)
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be written: {error}") from error

    # Deployments

    def save(self, record: DeploymentRecord) -> None:
        """Store a deployment as it stands now."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO deployments VALUES (?, (SELECT coalesce(max(sequence), 0) + 1 FROM"
                " deployments), ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
                " record = excluded.record",
                (record.id, record.state.value, _dump(record)),
            )
            db.execute(
                "DELETE FROM deployments WHERE state = ? AND sequence <="
                " (SELECT max(sequence) - ? FROM deployments)",
                (DeploymentState.IDLE.value, KEPT_KNOWN),
            )

    def put_back(self, deployment: str, spent_s: float) -> None:
        """Forget a deployment as if it had never begun, but for the time it has had."""
        newest = dict([*self.put_backs().items(), (deployment, spent_s)][-KEPT_ENDED:])
        with self.transaction() as db:
            db.execute("DELETE FROM deployments WHERE id = ?", (deployment,))
            self.save_setting("put_back", json.dumps(newest))

    def put_backs(self) -> dict[str, float]:
        """Seconds that deployments had before they were put back, by id."""
        found: dict[str, float] = json.loads(self.setting("put_back", "{}"))
        return found

    def active(self) -> DeploymentRecord | None:
        """The deployment that has not ended."""
        ended = (DeploymentState.IDLE.value, DeploymentState.REPORTING.value)
        rows = self._all("SELECT record FROM deployments WHERE state NOT IN (?, ?)", ended)
        return _load(DeploymentRecord, rows[0][0]) if rows else None

    def ended(self) -> tuple[DeploymentRecord, ...]:
        """Deployments that have ended and whose end is not acknowledged, oldest first."""
        rows = self._all(
            "SELECT record FROM deployments WHERE state = ? ORDER BY sequence DESC LIMIT ?",
            (DeploymentState.REPORTING.value, KEPT_ENDED),
        )
        return tuple(_load(DeploymentRecord, row[0]) for row in reversed(rows))

    def history(self, limit: int = 20) -> tuple[DeploymentRecord, ...]:
        """The newest deployments, newest first."""
        rows = self._all("SELECT record FROM deployments ORDER BY sequence DESC LIMIT ?", (limit,))
        return tuple(_load(DeploymentRecord, row[0]) for row in rows)

    def told_again(self, asked: Iterable[str]) -> tuple[DeploymentRecord, ...]:
        """Those of ``asked`` that have ended and whose end the controller once knew."""
        rows = [
            row
            for deployment in sorted(asked)
            for row in self._all(
                "SELECT record FROM deployments WHERE id = ? AND state = ?",
                (deployment, DeploymentState.IDLE.value),
            )
        ]
        return tuple(_load(DeploymentRecord, row[0]) for row in rows)

    def known(self) -> frozenset[str]:
        """Ids of all deployments that were seen here and are remembered."""
        return frozenset(row[0] for row in self._all("SELECT id FROM deployments"))

    # Slots

    def slots(self) -> tuple[SlotFacts, ...]:
        """Facts of every slot, by name."""
        rows = self._all("SELECT facts FROM slots ORDER BY slot")
        return tuple(_load(SlotFacts, row[0]) for row in rows)

    def slot(self, slot: str) -> SlotFacts:
        """Facts of one slot; empty ones when nothing was committed."""
        rows = self._all("SELECT facts FROM slots WHERE slot = ?", (slot,))
        return _load(SlotFacts, rows[0][0]) if rows else SlotFacts(slot=slot)

    def save_slot(self, facts: SlotFacts) -> None:
        """Store the facts of one slot."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO slots VALUES (?, ?) ON CONFLICT (slot) DO UPDATE SET"
                " facts = excluded.facts",
                (facts.slot, _dump(facts)),
            )

    def drop_slot(self, slot: str) -> None:
        """Forget a slot that is gone."""
        with self.transaction() as db:
            db.execute("DELETE FROM slots WHERE slot = ?", (slot,))

    # Studies and what waits to be handed in

    def studies(self) -> dict[str, str]:
        """Studies that are over, by id: empty, or why there is no result."""
        return dict(self._all("SELECT id, note FROM studies ORDER BY sequence"))

    def save_study(self, study: str, note: str = "") -> None:
        """A study is over."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO studies VALUES (?, (SELECT coalesce(max(sequence), 0) + 1"
                " FROM studies), ?)",
                (study, note),
            )
            db.execute(
                "DELETE FROM studies WHERE sequence <= (SELECT max(sequence) - ? FROM studies)",
                (KEPT_STUDIES,),
            )

    def submissions(self) -> tuple[tuple[str, int, str], ...]:
        """(id, tries, job as JSON) of what waits to be handed in, oldest first."""
        return tuple(self._all("SELECT id, tries, job FROM submissions ORDER BY rowid"))

    def save_submission(self, key: str, tries: int, job: str) -> None:
        """Keep, or count another try of, one submission."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO submissions VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " tries = excluded.tries, job = excluded.job",
                (key, tries, job),
            )

    def drop_submission(self, key: str) -> None:
        """It is handed in, or given up."""
        with self.transaction() as db:
            db.execute("DELETE FROM submissions WHERE id = ?", (key,))

    # Quarantine

    def quarantine(self) -> dict[str, int]:
        """Failures in a row, by `agent.domain.plan.quarantine_key`."""
        return dict(self._all("SELECT key, failures FROM quarantine"))

    def count_failure(self, key: str, *, failed: bool) -> None:
        """One more failure, or none any more."""
        with self.transaction() as db:
            if failed:
                db.execute(
                    "INSERT INTO quarantine VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET"
                    " failures = failures + 1",
                    (key,),
                )
            else:
                db.execute("DELETE FROM quarantine WHERE key = ?", (key,))

    # Settings

    def setting(self, name: str, default: str = "") -> str:
        """One small value."""
        rows = self._all("SELECT value FROM settings WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else default

    def save_setting(self, name: str, value: str) -> None:
        """Store one small value; one that is there already costs no write."""
        if self.setting(name) == value:
            return
        with self.transaction() as db:
            db.execute(
                "INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET"
                " value = excluded.value",
                (name, value),
            )

    def see_generation(self, generation: int) -> None:
        """A desired state came. One that is lower than before is of a restored controller."""
        last = int(self.setting("generation", "0"))
        if generation < last:
            self.save_setting("generation_seen", str(self.highest_generation()))
        self.save_setting("generation", str(generation))

    def highest_generation(self) -> int:
        """Of all desired states that ever came."""
        return max(int(self.setting(name, "0")) for name in ("generation", "generation_seen"))

    def rows(self, query: str, arguments: Iterable[Any] = ()) -> list[Any]:
        """Read for the outbox, which shares the file."""
        return self._all(query, tuple(arguments))

    def _all(self, query: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error


def open_journal(path: Path) -> Journal:
    """Open or begin the journal at ``path``; a damaged one is moved aside.

    Raises:
        JournalError: the folder cannot be written, or the journal is of a newer agent.
    """
    try:
        durable.make_folder(path.parent, mode=0o700)
        return Journal(_open(path), path)
    except OSError as error:
        raise JournalError(f"cannot make {path.parent}: {error.strerror}") from error
    except _Newer as error:
        return _go_back(path, error)
    except (sqlite3.DatabaseError, ValueError) as error:
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            raise JournalError(f"cannot open the journal {path}: {error}") from error
        aside = _aside(path)
        _move(path, aside)
        reason = f"the journal was damaged ({error}) and begun anew; the old one is {aside.name}"
        return Journal(_open(path), path, lost=reason)


def read_journal(path: Path) -> Journal:
    """Open a journal to look at it, beside the agent that writes it. Changes nothing.

    Raises:
        JournalError: it cannot be read.
    """
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        connection.execute("SELECT count(*) FROM slots").fetchone()
    except sqlite3.Error as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    return Journal(connection, path)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    done = False
    try:
        durable.run_script(connection, path, "PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -256")  # KiB; the supervisor stays small
        _migrate(connection, path)
        _check(connection)
        done = True
    finally:
        if not done:
            connection.close()
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (oldest,) = connection.execute("PRAGMA application_id").fetchone()
    if version > len(_MIGRATIONS) and not 0 < oldest <= len(_MIGRATIONS):
        raise _Newer(
            f"the journal has version {version}, this agent knows {len(_MIGRATIONS)}: install the"
            " newer agent again, or move the journal away to begin anew"
        )
    if 0 < version < len(_MIGRATIONS):
        _keep_copy(connection, path, version)
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        marks = f"PRAGMA user_version = {number}; PRAGMA application_id = {_OLDEST};"
        durable.run_script(connection, path, f"BEGIN; {script} {marks} COMMIT;")


def _keep_copy(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """The journal as it is now, whole and durable, in place of older copies."""
    for old in _copies(path).values():
        durable.remove(old)
    copy = path.with_name(f"{path.name}{_COPY}{version}")
    part = copy.with_name(f".{copy.name}.new")
    durable.remove(part)
    quoted = str(part).replace("'", "''")
    durable.run_script(connection, part, f"VACUUM INTO '{quoted}';")
    with durable.open_file(part, "ab") as file:
        durable.sync(file)
    durable.replace(part, copy)
    durable.sync_folder(path.parent)


def _copies(path: Path) -> dict[int, Path]:
    """Version to copy."""
    found = {
        copy.name.rpartition("-")[2]: copy for copy in path.parent.glob(f"{path.name}{_COPY}*")
    }
    return {int(version): copy for version, copy in found.items() if version.isdigit()}


def _go_back(path: Path, error: JournalError) -> Journal:
    """Go on with the newest copy that this version can read; the newer journal is kept, too.

    Raises:
        JournalError: there is none.
    """
    usable = {n: copy for n, copy in _copies(path).items() if n <= len(_MIGRATIONS)}
    if not usable:
        raise error
    copy, aside = usable[max(usable)], _aside(path, "newer")
    _end_outbox(copy)
    _move(path, aside)
    durable.replace(copy, path)
    durable.sync_folder(path.parent)
    reason = f"a newer agent's journal was moved to {aside.name}, the one from before it goes on"
    return Journal(_open(path), path, lost=reason)


def _end_outbox(copy: Path) -> None:
    """The newer agent went on counting: the controller would take our numbers for its own."""
    connection = sqlite3.connect(copy, isolation_level=None)
    try:
        script = "DELETE FROM outbox; DELETE FROM settings WHERE name IN ('outbox', 'sequence');"
        durable.run_script(connection, copy, f"BEGIN; {script} COMMIT;")
    finally:
        connection.close()


def _check(connection: sqlite3.Connection) -> None:
    """Read everything that matters once; a damaged page or record shows now, not later."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    for (text,) in connection.execute("SELECT record FROM deployments").fetchall():
        if _load(DeploymentRecord, text).format > FORMAT:
            raise _Newer("the journal holds deployments of a newer agent: install it again")
    for (text,) in connection.execute("SELECT facts FROM slots").fetchall():
        _load(SlotFacts, text)


def _aside(path: Path, why: str = "damaged") -> Path:
    number = 1
    while path.with_name(f"{path.name}.{why}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{why}.{number}")


def _move(path: Path, aside: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            durable.replace(source, aside.with_name(aside.name + suffix))
    durable.sync_folder(path.parent)


def _dump(value: object) -> str:
    return json.dumps(plain.to_plain(value), separators=(",", ":"))


def _load(kind: type[T], text: str) -> T:
    return plain.from_plain(kind, json.loads(text))
