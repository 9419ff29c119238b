"""Rebuild: a transport file's tar from a delta and the files that this device has already.

The base is what lies in the slot's folder, and is compared with its manifest first. Nothing of
a delta is believed but its result's digest; whatever is wrong with it means that the whole file
is fetched, never that a deployment fails.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agent import durable
from agent.workers.child import JobError
from fitment.core import delta, plain
from fitment.core import digest as digests
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, image_order
from fitment.core.delta import DeltaError

MAX_BYTES = 4 * 1024 * 1024 * 1024  # beyond any model that a light device runs
_READ_BYTES = 256 * 1024


class Unusable(Exception):
    """The delta or its base will not do; the text says why."""

    def __init__(self, why: str, *, wire_bytes: int = 0) -> None:
        super().__init__(why)
        self.wire_bytes = wire_bytes  # received, and removed already


class Image:
    """The files of a bundle's folder as one stretch of bytes, in the order of `image_order`."""

    def __init__(self, files: list[tuple[IO[bytes], int]]) -> None:
        self._parts: list[tuple[int, int, IO[bytes]]] = []
        self.size = 0
        for file, size in files:
            self._parts.append((self.size, size, file))
            self.size += size

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from ``offset``, over the files' borders; fewer only at the end.

        Raises:
            Unusable: the disk refuses.
        """
        found = []
        for start, length, file in self._parts:
            skip = max(0, offset - start)
            wanted = min(length, offset + size - start) - skip
            if wanted > 0:
                try:
                    file.seek(skip)
                    found.append(file.read(wanted))
                except OSError as error:
                    raise Unusable(f"the base cannot be read: {error.strerror}") from error
        return b"".join(found)


@contextmanager
def opened(folder: Path, variant: str) -> Iterator[Image]:
    """The image of a folder that holds ``variant``, whose files were just compared.

    Raises:
        Unusable: they are not what the variant's digest covers.
    """
    with contextlib.ExitStack() as stack:
        try:
            content = (folder / MANIFEST_NAME).read_bytes()
            manifest = plain.from_plain(BundleManifest, json.loads(content))
            files = [stack.enter_context((folder / n).open("rb")) for n in image_order(manifest)]
            found = [_measured(file) for file in files]
        except (OSError, ValueError) as error:
            raise Unusable(f"the base cannot be read: {error}") from error
        entries = {entry.path: entry for entry in manifest.files}
        wanted = [variant, *(entries[name].sha256 for name in image_order(manifest)[1:])]
        if [digest for digest, _ in found] != wanted:
            raise Unusable("the base on this device is damaged")
        yield Image([(file, size) for file, (_, size) in zip(files, found, strict=True)])


def target_bytes(path: Path) -> int:
    """How much room the result of a delta file needs.

    Raises:
        Unusable: it is no delta.
    """
    try:
        with path.open("rb") as file:
            size = delta.read_header(file).target_bytes
    except DeltaError as error:
        raise Unusable(str(error)) from error
    if size > MAX_BYTES:
        raise Unusable(f"the delta unpacks to more than {MAX_BYTES} bytes")
    return size


def rebuild(path: Path, image: Image, base: str, target: Path) -> None:
    """Apply a delta file to an image of ``base``; ``target`` appears whole or not at all.

    Raises:
        Unusable: it is damaged, for another base, or gives other bytes than it says.
        JobError: ``disk_full``, ``disk``.
    """
    part = target.with_name(target.name + ".part")
    durable.remove(part)
    try:
        with path.open("rb") as file:
            header = delta.read_header(file)
            if (header.base, header.base_bytes) != (digests.hex_of(base), image.size):
                raise Unusable("the delta is for another base")
            _write(delta.apply(file, image.read), part, header.target)
        durable.replace(part, target)
        durable.sync_folder(target.parent)
    except DeltaError as error:
        raise Unusable(str(error)) from error
    except OSError as error:
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk"
        why = f"cannot write {part}: {error.strerror}: make room on this disk"
        raise JobError(code, why) from error
    finally:
        with contextlib.suppress(OSError):  # what was said already is what counts
            durable.remove(part)


def _write(blocks: Iterator[bytes], part: Path, expected: str) -> None:
    state = hashlib.sha256()
    with durable.open_file(part, "xb") as out:
        for block in blocks:
            out.write(block)
            state.update(block)
        durable.sync(out)
    if state.hexdigest() != expected:
        raise Unusable("the delta gave other bytes than it says")


def _measured(file: IO[bytes]) -> tuple[str, int]:
    digest = digests.digest_chunks(iter(lambda: file.read(_READ_BYTES), b""))
    return digest, file.tell()
