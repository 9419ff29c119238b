"""Restoring a backup into a new data directory, or only checking one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controller.backup import archive
from controller.backup.take import DATABASE, Progress
from controller.disk import sync_folder
from controller.errors import Conflict, UserError
from controller.store import snapshot
from fitment.core import plain

MARKER = "restored.json"
"""Tells the first start on the new directory that it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The marker, and what the command says."""

    backup_at: float  # when the backup was taken
    restored_at: float
    was: str  # data directory that it was taken of
    data_dir: str  # empty: it was only checked
    fitment: str  # version that wrote the backup
    schema: int
    files: int
    bytes: int
    notes: tuple[str, ...] = ()


def check(path: Path, *, progress: Progress) -> Restored:
    """Read all of an archive and compare it with its manifest; writes nothing.

    Raises:
        UserError: it is no backup, of a newer Fitment, cut short, or damaged.
    """

    def drop(_name: str, content: Iterator[bytes]) -> None:
        for _ in content:
            pass

    return _said(*archive.read(path, _check_head(path), drop, _steps(path, progress)), "")


def restore(path: Path, data_dir: Path, *, progress: Progress) -> Restored:
    """Unpack beside ``data_dir``, check all of it, and move it there whole.

    Raises:
        UserError: as `check`; or the database in it is damaged.
        Conflict: ``data_dir`` is there already and not empty.
    """
    _refuse_taken(data_dir)
    place = data_dir.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    making = place.with_name(f".{place.name}.restoring")
    shutil.rmtree(making, ignore_errors=True)  # of one that was killed
    making.mkdir(mode=0o700)
    done = False
    try:
        sink = _writer(making)
        read = archive.read(path, _check_head(path), sink, _steps(path, progress))
        progress("checking the database", 1.0)
        snapshot.check(making / DATABASE)
        said = _said(*read, str(place))
        _write(making / MARKER, iter([json.dumps(plain.to_plain(said)).encode()]))
        _sync_all(making)
        _refuse_taken(data_dir)
        making.replace(place)  # an empty folder gives way, any other does not
        sync_folder(place.parent)
        done = True
    finally:
        if not done:
            shutil.rmtree(making, ignore_errors=True)
    return said


def marker(data_dir: Path) -> Restored | None:
    """What is known of the restore that nobody has started on yet.

    Raises:
        UserError: the marker cannot be read.
    """
    path = data_dir / MARKER
    if not path.exists():
        return None
    try:
        return plain.from_plain(Restored, json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore the backup again") from error


def done(data_dir: Path) -> None:
    """The first start has done what it had to."""
    (data_dir / MARKER).unlink(missing_ok=True)
    sync_folder(data_dir)


def _refuse_taken(data_dir: Path) -> None:
    if not data_dir.exists():
        return
    if not data_dir.is_dir():
        raise Conflict(f"{data_dir} is no folder; choose another --data-dir")
    if any(data_dir.iterdir()):
        who = "a controller runs on it" if _is_held(data_dir / "lock") else "it holds something"
        raise Conflict(
            f"{data_dir} is not replaced: {who}. Stop what runs there, and restore to another"
            " --data-dir or move this one away"
        )


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _check_head(path: Path) -> archive.Check:
    def check(head: archive.Head) -> None:
        try:
            snapshot.check_schema(head.schema)
        except UserError as error:
            raise UserError(f"{path} cannot be restored here: {error}") from error

    return check


def _steps(path: Path, progress: Progress) -> Callable[[int], None]:
    whole = path.stat().st_size or 1
    return lambda read: progress("reading", min(1.0, read / whole))


def _said(head: archive.Head, manifest: archive.Manifest, place: str) -> Restored:
    return Restored(
        backup_at=head.created_at, restored_at=time.time(), was=head.data_dir, data_dir=place,
        fitment=head.fitment, schema=head.schema, files=len(manifest.files),
        bytes=sum(entry.bytes for entry in manifest.files), notes=manifest.notes,
    )  # fmt: skip


def _writer(folder: Path) -> archive.Sink:
    def write(name: str, content: Iterator[bytes]) -> None:
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target, content)

    return write


def _write(target: Path, content: Iterator[bytes]) -> None:
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        for data in content:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_all(folder: Path) -> None:
    for below, _, _ in os.walk(folder):
        sync_folder(Path(below))
