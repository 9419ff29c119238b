"""Content-addressed blobs: bytes named by their digest, written once and never changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from controller.disk import sync_folder
from controller.errors import NotFound, UserError
from fitment.core import digest as digests

_CHUNK_BYTES = 1024 * 1024


class Blobs(Protocol):
    """Where transport files, overlays and snapshots live.

    A digest that is malformed is a `UserError`, one that is not there a `NotFound`. Putting
    what is there already changes nothing. What was put is durable when the call returns.
    """

    def put_file(self, path: Path) -> str:
        """Store a copy of a file; returns its digest."""
        ...

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """Open for reading."""
        ...

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``; empty at the end."""
        ...

    def size(self, digest: str) -> int:
        """Bytes of the blob."""
        ...

    def has(self, digest: str) -> bool:
        """Whether it is there."""
        ...


class FolderBlobs:
    """Blobs as files ``<first two hex digits>/<hex>`` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put_file(self, path: Path) -> str:
        with self._incoming() as (temporary, file), path.open("rb") as source:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
            _sync(file)
            # Digest what was written, not what was read: the source may change meanwhile.
            digest = _digest_file(temporary)
            self._keep(temporary, digest)
        return digest

    def put_bytes(self, data: bytes) -> str:
        digest = digests.digest_bytes(data)
        if not self.has(digest):
            with self._incoming() as (temporary, file):
                file.write(data)
                _sync(file)
                self._keep(temporary, digest)
        return digest

    def open(self, digest: str) -> BinaryIO:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise missing(digest) from error

    def read(self, digest: str, offset: int, size: int) -> bytes:
        check_range(offset, size)
        with self.open(digest) as file:
            file.seek(offset)
            return file.read(size)

    def size(self, digest: str) -> int:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise missing(digest) from error

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        name = hex_of(digest)
        return self._folder / name[:2] / name

    @contextmanager
    def _incoming(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """A temporary file in the folder (the same disk, so that renaming is atomic)."""
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".incoming-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)  # gone already when it was kept

    def _keep(self, temporary: Path, digest: str) -> None:
        final = self.path(digest)
        final.parent.mkdir(exist_ok=True)
        temporary.chmod(0o644)
        temporary.replace(final)
        sync_folder(final.parent)
        sync_folder(self._folder)


def hex_of(digest: str) -> str:
    """Hex digits of a well-formed digest.

    Raises:
        UserError: it is malformed; nothing else may become a file name.
    """
    try:
        return digests.hex_of(digest)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_range(offset: int, size: int) -> None:
    """Refuse a negative offset or size.

    Raises:
        UserError: one of them is below zero.
    """
    if offset < 0 or size < 0:
        raise UserError(f"offset and size must not be negative (got {offset} and {size})")


def missing(digest: str) -> NotFound:
    """The error for a blob that is not there."""
    return NotFound(f"no blob {digest}; it was never stored here, or the folder was not restored")


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return digests.digest_chunks(iter(lambda: file.read(_CHUNK_BYTES), b""))


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
