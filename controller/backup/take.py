"""Taking a backup of a data directory while a controller runs on it.

The order makes it consistent: the database at one moment, then the rest, then trust. What the
database speaks of was made before it was written there, and nothing of it is ever changed.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from controller.backup import archive
from controller.disk import sync_folder
from controller.errors import Conflict, UserError
from controller.store import snapshot

DATABASE, TRUST, OFFLINE = "fitment.db", "trust", "offline"
MADE_AGAIN = frozenset({"lock", "controller.json", "broker", "deltas", "logs", "restored.json"})
"""What a start makes anew, or what is of one process only."""
_TRIES = 50
_PAUSE_S = 0.1

Progress = Callable[[str, float], None]
"""Is told what is copied, and which share of all is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was written."""

    path: str
    created_at: float
    files: int
    bytes: int  # of the data
    archive_bytes: int
    schema: int
    notes: tuple[str, ...] = ()


def take(data_dir: Path, target: Path, *, progress: Progress) -> Backup:
    """Write one archive; it has its name only once it is whole and on the disk.

    Raises:
        UserError: there is no data directory, or a file changed its past.
        Conflict: ``target`` is there already.
    """
    if target.exists():
        raise Conflict(f"{target} is there already and is not replaced; choose another name")
    if not (data_dir / DATABASE).is_file():
        raise UserError(f"{data_dir} is no controller's data directory: it has no {DATABASE}")
    if data_dir.resolve() in target.resolve().parents:
        raise UserError(f"{target} lies in the data directory; keep backups apart from it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        made = _write(data_dir.resolve(), Path(folder), progress)
        part = Path(folder) / "archive"
        os.link(part, target)  # unlike a rename it never takes the place of another file
    sync_folder(target.parent)
    return Backup(
        path=str(target), created_at=made.head.created_at, files=len(made.manifest.files),
        bytes=sum(entry.bytes for entry in made.manifest.files), schema=made.head.schema,
        archive_bytes=target.stat().st_size, notes=made.manifest.notes,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    head: archive.Head
    manifest: archive.Manifest


def _write(data_dir: Path, folder: Path, progress: Progress) -> _Made:
    database, created_at = folder / DATABASE, time.time()
    schema = snapshot.copy(
        data_dir / DATABASE, database, lambda done, of: progress("database", 0.3 * done / (of or 1))
    )
    head = archive.Head(
        format=archive.FORMAT, created_at=created_at, fitment=metadata.version("fitment"),
        schema=schema, data_dir=str(data_dir),
    )  # fmt: skip
    handle = os.open(folder / "archive", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        with archive.writing(file, head) as writer:
            _add(writer, DATABASE, database)
            database.unlink()
            _add_all(writer, data_dir, progress)
            for name, data in _trust(data_dir).items():
                writer.add(name, io.BytesIO(data), len(data))
            manifest = writer.end(_notes(data_dir))
        file.flush()
        os.fsync(file.fileno())
    progress("done", 1.0)
    return _Made(head=head, manifest=manifest)


def _add_all(writer: archive.Writer, data_dir: Path, progress: Progress) -> None:
    """Everything but the database and trust, which have their own moments."""
    own = {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", TRUST}
    tops = sorted(p for p in data_dir.iterdir() if p.name not in own | MADE_AGAIN)
    listed = [path for top in tops for path in _files(top)]
    whole, done = sum(size for _, size in listed) or 1, 0
    for path, size in listed:
        name = path.relative_to(data_dir).as_posix()
        progress(name, 0.3 + 0.7 * done / whole)
        _add(writer, name, path)
        done += size


def _files(top: Path) -> Iterator[tuple[Path, int]]:
    """Regular files and their sizes; what begins with a dot is being written."""
    if top.name.startswith("."):
        return
    try:
        facts = top.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(facts.st_mode):
        yield top, facts.st_size
    elif stat.S_ISDIR(facts.st_mode):
        for below in sorted(top.iterdir()):
            yield from _files(below)


def _add(writer: archive.Writer, name: str, path: Path) -> None:
    """One file as it is now; one that is gone meanwhile was nobody's any more."""
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return
    with source:
        writer.add(name, source, os.fstat(source.fileno()).st_size)


def _trust(data_dir: Path) -> dict[str, bytes]:
    """The trust folder, read again until no publication fell into the reading.

    Raises:
        UserError: it was written to all the time.
    """
    folder = data_dir / TRUST
    for _ in range(_TRIES):
        before = _timestamp(folder)
        try:
            found = {
                path.relative_to(data_dir).as_posix(): path.read_bytes()
                for path, _ in _files(folder)
            }
        except FileNotFoundError:
            found = {}  # an old version was taken away
        if found and before == _timestamp(folder):
            return found
        time.sleep(_PAUSE_S)
    raise UserError(f"{folder} is missing, or written to all the time; run it again")


def _timestamp(folder: Path) -> bytes:
    """The last that is written of every change of the metadata."""
    try:
        return (folder / "metadata" / "timestamp.json").read_bytes()
    except FileNotFoundError:
        return b""


def _notes(data_dir: Path) -> tuple[str, ...]:
    if (data_dir / OFFLINE).is_dir():
        return ()
    return ("the offline keys are not in it, since they are not in the data directory",)
