"""The archive: a gzipped tar that says first what it is, and last what it holds.

    fitment-backup.json     `Head`: readable without reading the rest
    data/…                  files of the data directory
    manifest.json           `Manifest`: path, size and sha256 of each; without it the file is cut

Nothing but regular files is in it. Paths are relative and below the data directory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from controller.errors import UserError
from fitment.core import plain

T = TypeVar("T")

FORMAT = 1
HEAD, MANIFEST, DATA = "fitment-backup.json", "manifest.json", "data/"
_LEVEL = 1  # blobs are packed already; the database shrinks to a fifth even so
_CHUNK = 1 << 20
_MOST_JSON = 256 << 20
_PART = re.compile(r"[^/\0]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a backup is of."""

    format: int
    created_at: float  # seconds since the epoch; of the snapshot of the database
    fitment: str  # version that wrote it
    schema: int  # of the database
    data_dir: str  # where it was; some records hold absolute paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file."""

    path: str  # relative to the data directory
    bytes: int
    sha256: str  # hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every file, in the order of the archive."""

    files: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = field(default=())


class Writer:
    """Adds files, and remembers their digests."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._entries: list[Entry] = []

    def add(self, path: str, source: IO[bytes], size: int) -> None:
        """Copy exactly ``size`` bytes.

        Raises:
            UserError: there are fewer: the file was cut while it was copied.
        """
        reader = _Digesting(source)
        try:
            self._put(DATA + path, reader, size)
        except OSError as error:
            if error.errno is not None:
                raise
            raise UserError(f"{path} was cut while it was copied; run it again") from error
        sha256 = reader.digest.hexdigest()
        self._entries.append(Entry(path=path, bytes=size, sha256=sha256))

    def end(self, notes: tuple[str, ...]) -> Manifest:
        """Write the manifest; nothing may follow."""
        manifest = Manifest(files=tuple(self._entries), notes=notes)
        self._put_json(MANIFEST, manifest)
        return manifest

    def begin(self, head: Head) -> None:
        """Write the head, before anything else."""
        self._put_json(HEAD, head)

    def _put_json(self, name: str, value: object) -> None:
        data = json.dumps(plain.to_plain(value)).encode()
        self._put(name, io.BytesIO(data), len(data))

    def _put(self, name: str, source: IO[bytes] | _Digesting, size: int) -> None:
        described = tarfile.TarInfo(name)
        described.size, described.mode = size, 0o600
        self._tar.addfile(described, source)


class _Digesting:
    """Digests what is read through it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


@contextmanager
def writing(target: IO[bytes], head: Head) -> Iterator[Writer]:
    """An archive on an open file."""
    with (
        gzip.GzipFile(
            fileobj=target, mode="wb", compresslevel=_LEVEL, filename="", mtime=0
        ) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        writer = Writer(tar)
        writer.begin(head)
        yield writer


Sink = Callable[[str, Iterator[bytes]], None]
"""Takes one file's path and its content."""
Check = Callable[[Head], None]
"""Looks at the head before anything is unpacked; may refuse it."""
Step = Callable[[int], None]
"""Is told how many bytes of the archive were read."""


def read(path: Path, check: Check, sink: Sink, step: Step) -> tuple[Head, Manifest]:
    """Hand every file to ``sink`` and compare all with the manifest.

    Raises:
        UserError: it is no backup, of another format, cut short, or damaged.
    """
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed, _damage(path):
        try:
            tar = tarfile.open(fileobj=packed, mode="r|", bufsize=_CHUNK)  # noqa: SIM115 - just below
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is no backup of Fitment ({error})") from error
        with tar:
            found = _read(path, tar, check, sink, lambda: step(raw.tell()))
        while packed.read(_CHUNK):  # to its very end, where its own check is
            pass
        return found


def _read(
    path: Path, tar: tarfile.TarFile, check: Check, sink: Sink, step: Callable[[], None]
) -> tuple[Head, Manifest]:
    first = tar.next()
    if first is None or first.name != HEAD:
        raise UserError(f"{path} is no backup of Fitment: it does not begin with {HEAD}")
    head = _json(tar, first, Head)
    if head.format > FORMAT:
        raise UserError(
            f"{path} was written by a newer Fitment ({head.fitment}, format {head.format}; this one"
            f" knows {FORMAT}): upgrade Fitment"
        )
    check(head)
    found: list[Entry] = []
    while (member := tar.next()) is not None:
        step()
        if member.name == MANIFEST:
            manifest = _json(tar, member, Manifest)
            if tar.next() is not None:
                raise UserError(f"{path} is damaged: something follows its manifest")
            _compare(path, manifest, found)
            return head, manifest
        found.append(_file(path, tar, member, sink))
    raise UserError(f"{path} is cut short: its manifest is missing; copy it again")


def _json(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: type[T]) -> T:
    source = tar.extractfile(member)
    if source is None or member.size > _MOST_JSON:
        raise UserError(f"the backup is damaged: {member.name} is no file")
    try:
        return plain.from_plain(kind, json.loads(source.read()))
    except ValueError as error:
        raise UserError(f"the backup is damaged: {member.name}: {error}") from error


def _file(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, sink: Sink) -> Entry:
    name = member.name.removeprefix(DATA)
    source = tar.extractfile(member) if member.isreg() else None
    if source is None or not member.name.startswith(DATA) or not is_below(name):
        raise UserError(f"{path} is damaged: it holds '{member.name}', which no backup does")
    digesting = _Digesting(source)
    sink(name, iter(lambda: digesting.read(_CHUNK), b""))
    return Entry(path=name, bytes=member.size, sha256=digesting.digest.hexdigest())


def is_below(name: str) -> bool:
    """Whether a path stays below the folder that it is put into."""
    parts = PurePosixPath(name).parts
    return bool(parts) and all(_PART.match(p) and p not in (".", "..") for p in parts)


def _compare(path: Path, manifest: Manifest, found: list[Entry]) -> None:
    if tuple(found) == manifest.files:
        return
    said = {entry.path: entry for entry in manifest.files}
    here = {entry.path: entry for entry in found}
    wrong = sorted(name for name in {*said, *here} if said.get(name) != here.get(name))
    what = f"{wrong[0]} and {len(wrong) - 1} more" if len(wrong) > 1 else "".join(wrong)
    raise UserError(f"{path} is damaged: {what or 'a file'} is not what the manifest says")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut short or damaged ({error}); copy it again") from error
