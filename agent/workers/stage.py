"""Stage: unpack a verified transport file and check every byte against the variant's digest.

The digest covers the manifest and the manifest covers every file, so nothing may be in the
folder that it does not name. A folder that fails is removed; one that succeeds is synced.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from agent import durable
from agent.jobs import StageJob, StageResult
from agent.workers import child
from agent.workers.child import JobError
from fitment.core import digest as digests
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, FileEntry

_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_MAX_TOTAL_BYTES = 4 * 1024 * 1024 * 1024  # beyond any model that a light device runs
_MAX_DECODER_BYTES = 128 * 1024 * 1024  # xz preset 9 needs 65 MiB
_READ_BYTES = 256 * 1024
REBUILT = ".tar"  # suffix of what was rebuilt from a delta

_INSTALL = {
    "onnx": "pip install 'fitment[onnx]'",
    "litert": "pip install 'fitment[litert]' (or 'fitment[tflite]' on boards stuck on it)",
}


def handle(job: StageJob) -> StageResult:
    """Unpack into ``job.folder``.

    Raises:
        JobError: ``archive`` (not a clean bundle), ``digest``, ``runtime_missing``,
            ``disk_full``, ``disk``.
    """
    folder = Path(job.folder)
    durable.remove_tree(folder)
    done = False
    try:
        with _disk_errors(folder), _mendable(job.archive_path):
            manifest = _unpack(job, folder)
            _sync_tree(folder)
        done = True
    finally:
        if not done:
            durable.remove_tree(folder)
    return StageResult(
        variant=job.variant,
        name=manifest.name,
        runtime=manifest.runtime,
        bytes=(folder / MANIFEST_NAME).stat().st_size + sum(e.size for e in manifest.files),
    )


def check_contents(archive_path: str, variant: str) -> None:
    """Compare all that is in a tar with a variant's digest, and write nothing.

    Raises:
        JobError: ``archive``, ``digest``, ``disk``.
    """
    path = Path(archive_path)
    with _disk_errors(path), _mendable(archive_path):
        entries = _entries(_parse(_checked_manifest(path, variant)))
        with _members(path) as members:
            for info, content in members:
                if info.name == MANIFEST_NAME:
                    continue
                entry = entries.pop(info.name, None)
                found = digests.digest_chunks(iter(lambda c=content: c.read(_READ_BYTES), b""))  # type: ignore[misc]
                if entry is None or found != entry.sha256:
                    raise _bad(f"'{info.name}' is not what its manifest says", code="digest")
        if entries:
            raise _bad(f"it lacks {', '.join(sorted(entries))}")


@contextmanager
def _mendable(archive_path: str) -> Iterator[None]:
    """What was rebuilt from a delta was not signed as it is: the whole file may be better."""
    try:
        yield
    except JobError as error:
        if archive_path.endswith(REBUILT) and error.code in ("archive", "digest"):
            error.permanent = False
        raise


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise JobError("archive", f"the transport file is damaged: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise JobError(
                "disk_full", f"no room to unpack into {folder}: make room on this disk"
            ) from error
        raise JobError("disk", f"cannot unpack into {folder}: {error}") from error


def _unpack(job: StageJob, folder: Path) -> BundleManifest:
    """Write every listed file; returns the manifest.

    The archive is read twice: once for the manifest, which says what the rest must be, and
    once for the files, each checked while it is written.
    """
    archive_path = Path(job.archive_path)
    manifest_bytes = _checked_manifest(archive_path, job.variant)
    manifest = _parse(manifest_bytes)
    entries = _entries(manifest)
    _check_runtime(manifest, job.runtimes)
    durable.make_folder(folder)
    _write_new(folder / MANIFEST_NAME, manifest_bytes)
    with _members(archive_path) as members:
        for info, content in members:
            if info.name == MANIFEST_NAME:
                continue
            entry = entries.pop(info.name, None)
            if entry is None:
                raise _bad(f"'{info.name}' is not listed in its manifest, or is there twice")
            _extract(content, folder / entry.path, entry)
    if entries:
        raise _bad(f"it lacks {', '.join(sorted(entries))}")
    return manifest


def _checked_manifest(archive_path: Path, variant: str) -> bytes:
    manifest_bytes = _read_manifest(archive_path)
    if digests.digest_bytes(manifest_bytes) != variant:
        raise _bad("its manifest is not the variant's", code="digest")
    return manifest_bytes


def _read_manifest(archive_path: Path) -> bytes:
    with _members(archive_path) as members:
        for info, content in members:
            if info.name == MANIFEST_NAME:
                if info.size > _MAX_MANIFEST_BYTES:
                    raise _bad(f"its manifest has {info.size} bytes")
                return content.read()
    raise _bad(f"it has no {MANIFEST_NAME}")


@contextmanager
def _members(archive_path: Path) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes]]]]:
    with archive_path.open("rb") as raw:
        # What was rebuilt from a delta is the same tar, uncompressed.
        stream = raw if archive_path.suffix == REBUILT else _BoundedXz(raw)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES) as archive:
            yield _regular(archive)


def _regular(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for info in archive:
        if not info.isreg() or info.issparse():
            raise _bad(f"'{info.name}' is no regular file (no links, folders or devices here)")
        _check_path(info.name)
        content = archive.extractfile(info)
        if content is not None:
            yield info, content


def _check_path(name: str) -> None:
    pure = PurePosixPath(name)
    clean = str(pure) == name and not pure.is_absolute() and ".." not in pure.parts
    if not clean or not pure.parts or "\0" in name or "\\" in name:
        raise _bad(f"'{name}' is no clean relative path")


def _parse(data: bytes) -> BundleManifest:
    try:
        return plain.from_plain(BundleManifest, json.loads(data))
    except ValueError as error:
        raise _bad(f"its manifest cannot be read: {error}") from error


def _entries(manifest: BundleManifest) -> dict[str, FileEntry]:
    entries = {entry.path: entry for entry in manifest.files}
    if len(entries) != len(manifest.files) or MANIFEST_NAME in entries:
        raise _bad("its manifest lists a file twice")
    for entry in manifest.files:
        _check_path(entry.path)
        if entry.size < 0:
            raise _bad(f"'{entry.path}' has a negative size")
    if sum(entry.size for entry in manifest.files) > _MAX_TOTAL_BYTES:
        raise _bad(f"it unpacks to more than {_MAX_TOTAL_BYTES} bytes")
    return entries


def _extract(content: IO[bytes], path: Path, entry: FileEntry) -> None:
    """Write one file while digesting it; never a byte more than its entry allows."""
    durable.make_folder(path.parent)
    state = hashlib.sha256()
    left = entry.size
    with durable.open_file(path, "xb") as file:
        while data := content.read(min(_READ_BYTES, left + 1)):
            left -= len(data)
            if left < 0:
                raise _bad(f"'{entry.path}' is longer than listed", code="digest")
            state.update(data)
            file.write(data)
        durable.sync(file)
    if left or "sha256:" + state.hexdigest() != entry.sha256:
        raise _bad(f"'{entry.path}' differs from its entry in the manifest", code="digest")


def _check_runtime(manifest: BundleManifest, runtimes: tuple[str, ...]) -> None:
    if not runtimes or manifest.runtime in runtimes:
        return
    how = _INSTALL.get(manifest.runtime, "a newer fitment-agent may know it")
    raise JobError(
        "runtime_missing",
        f"the bundle needs the runtime '{manifest.runtime}', this device has "
        f"{', '.join(runtimes)}: {how}",
        permanent=True,
    )


def _write_new(path: Path, data: bytes) -> None:
    with durable.open_file(path, "xb") as file:
        file.write(data)
        durable.sync(file)


def _sync_tree(folder: Path) -> None:
    """Make every name durable, the folder's own last."""
    inner = [path for path in folder.rglob("*") if path.is_dir()]
    for path in (*inner, folder, folder.parent):
        durable.sync_folder(path)


def _bad(problem: str, *, code: str = "archive") -> JobError:
    """A verified archive that is not a clean bundle: fetching the same bytes cannot help."""
    return JobError(code, f"the transport file is no clean bundle: {problem}", permanent=True)


class _BoundedXz(io.RawIOBase):
    """Decompresses a stream with bounded memory and a bounded amount of output."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__()
        self._raw = raw
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DECODER_BYTES)
        self._left = _MAX_TOTAL_BYTES + _MAX_MANIFEST_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        parts = []
        wanted = self._left if size < 0 else size
        while wanted > 0 and not self._decoder.eof:
            source = self._raw.read(_READ_BYTES) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not source:
                raise EOFError("the compressed data ends early")
            data = self._decoder.decompress(source, wanted)
            wanted -= len(data)
            self._left -= len(data)
            if self._left < 0:
                raise _bad(f"it unpacks to more than {_MAX_TOTAL_BYTES} bytes")
            parts.append(data)
        return b"".join(parts)


if __name__ == "__main__":
    sys.exit(child.run("stage", handle))
