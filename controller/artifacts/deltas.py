"""Deltas on demand: made when a device first asks, kept as blobs, found again by an index.

A device names the variant that it has; its files in the order of `image_order` are the base. The
target is the transport file's tar without its compression, since what a device compressed anew
would have other bytes: the digest in a delta's header is the tar's, and what was rebuilt is held
to the signed digest of the variant, which covers every file.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import logging
import lzma
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from controller.artifacts import differ
from controller.artifacts.blobs import Blobs, hex_of
from controller.artifacts.differ import Side
from controller.errors import FitmentError, UserError
from fitment.core import digest as digests
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, image_order

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the index; a better way to make deltas raises it, and they are made anew."""
ARCHIVE_BYTES_MAX = 32 * 1024 * 1024
"""Making one takes about eight times the tar in memory; larger bundles are sent whole."""
WORTH = 0.95
"""Of the transport file's size: below it a delta is worth the device's writing the tar twice."""
PENDING_MAX = 8
"""Pairs that wait to be made; who asks for one more gets the whole file."""

ArchiveOf = Callable[[str], str | None]
"""Variant -> digest of its transport file, when it is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A delta file that is worth it. ``form`` is for people."""

    delta: str
    delta_bytes: int
    form: str


Found = concurrent.futures.Future[Delta | None]


class Deltas:
    """Makes deltas in a thread of its own, one at a time. Safe to ask from several threads."""

    def __init__(self, folder: Path, blobs: Blobs, archive_of: ArchiveOf) -> None:
        self._folder = folder
        self._blobs = blobs
        self._archive_of = archive_of
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._pending: dict[Path, Found] = {}

    def ask(self, archive: str, base: str) -> Found:
        """The delta of a transport file against the files of variant ``base``, once it is made.

        The future holds None when there is none: the base is not ours, the whole file is
        smaller, or too many others are being made.

        Raises:
            UserError: a digest is malformed.
            NotFound: there is no such transport file.
        """
        size = self._blobs.size(archive)
        hex_of(base)
        old = self._archive_of(base)
        if old is None or size > ARCHIVE_BYTES_MAX or not self._blobs.has(old):
            return _done(None)
        entry = self._folder / hex_of(archive) / f"{hex_of(base)}.{FORMAT}.json"
        with self._lock:
            if entry in self._pending:
                return self._pending[entry]
            known, delta = self._read(entry)
            if known or len(self._pending) >= PENDING_MAX:
                return _done(delta)
            found = self._pending[entry] = Found()
        threading.Thread(
            target=self._make, args=(entry, old, archive, found), name="delta", daemon=True
        ).start()
        return found

    def _make(self, entry: Path, old: str, archive: str, found: Found) -> None:
        delta = None
        try:
            with self._making:
                delta = make(self._blobs, old, archive)
            self._write(entry, delta)
        except (FitmentError, OSError, MemoryError, ValueError, AssertionError) as error:
            log.warning("action=delta_failed archive=%s reason=%s", digests.short(archive), error)
        finally:
            with self._lock:
                del self._pending[entry]
            found.set_result(delta)

    def _read(self, entry: Path) -> tuple[bool, Delta | None]:
        """(whether this pair was looked at, its delta)."""
        try:
            value = json.loads(entry.read_bytes())
            delta = plain.from_plain(Delta, value) if value else None
        except (OSError, ValueError):
            return False, None
        return delta is None or self._blobs.has(delta.delta), delta

    def _write(self, entry: Path, delta: Delta | None) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary = entry.with_suffix(".new")
        temporary.write_bytes(digests.canonical(delta))
        temporary.replace(entry)


def make(blobs: Blobs, old: str, archive: str) -> Delta | None:
    """Make the delta between two transport files and store it; None when that saves too little.

    Raises:
        UserError: one of them is no transport file of a bundle.
    """
    with blobs.open(old) as file:
        base = image(file)
    with blobs.open(archive) as file:
        target = tar(file)
    form, data = differ.make(base, target)
    size = blobs.size(archive)
    log.info("action=delta_made archive=%s form=%s delta_bytes=%d archive_bytes=%d",
             digests.short(archive), form, len(data), size)  # fmt: skip
    if len(data) > WORTH * size:
        return None
    return Delta(delta=blobs.put_bytes(data), delta_bytes=len(data), form=form)


def image(archive: BinaryIO) -> Side:
    """What a device has that runs this bundle: its files, one after the other."""
    data = tar(archive)
    files = {name: data.data[start:end] for name, (start, end) in data.files.items()}
    try:
        manifest = plain.from_plain(BundleManifest, json.loads(files[MANIFEST_NAME]))
        names = image_order(manifest)
        ends, size = {}, 0
        for name in names:
            ends[name] = (size, size + len(files[name]))
            size += len(files[name])
    except (KeyError, ValueError) as error:
        raise UserError(f"this is no transport file of a bundle: {error}") from error
    return Side(
        name=digests.hex_of(digests.digest_bytes(files[MANIFEST_NAME])),
        data=b"".join(files[name] for name in names),
        files=ends,
    )


def tar(archive: BinaryIO) -> Side:
    """A transport file without its compression."""
    try:
        data = lzma.decompress(archive.read(), format=lzma.FORMAT_XZ)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as members:
            files = {m.name: (m.offset_data, m.offset_data + m.size) for m in members}
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"this is no transport file of a bundle: {error}") from error
    return Side(name=digests.hex_of(digests.digest_bytes(data)), data=data, files=files)


def _done(delta: Delta | None) -> Found:
    found = Found()
    found.set_result(delta)
    return found
