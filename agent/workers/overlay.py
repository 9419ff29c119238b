"""Overlays: what calibration changed, kept apart from the pristine file.

What runs is pristine plus overlay, put together in memory. The pristine file is never written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from agent.workers.child import JobError, write_durably
from fitment.core import digest, plain
from fitment.core.patch import Overlay, Write


def make(artifact_sha256: str, writes: Iterable[Write]) -> Overlay:
    """An overlay in order of offset; its id is the digest of its writes."""
    ordered = tuple(sorted(writes, key=lambda write: write.offset))
    return Overlay(
        id=digest.digest_of(list(ordered)), artifact_sha256=artifact_sha256, writes=ordered
    )


def save(path: Path, overlay: Overlay) -> None:
    """Write canonical JSON, durably."""
    write_durably(path, digest.canonical(overlay))


def load(path: Path) -> Overlay:
    """Read what `save` wrote.

    Raises:
        JobError: ``overlay_invalid``; the file is missing, damaged, or not what its id says.
    """
    try:
        overlay = plain.from_plain(Overlay, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} cannot be read: {error}") from error
    if digest.digest_of(list(overlay.writes)) != overlay.id:
        raise _invalid(f"{path}: the writes do not have the digest that its id names")
    return overlay


def apply(artifact: bytes, overlay: Overlay) -> bytes:
    """The patched file's bytes.

    Raises:
        JobError: ``overlay_invalid``; it was made for another file, or writes outside this one.
    """
    found = digest.digest_bytes(artifact)
    if found != overlay.artifact_sha256:
        raise _invalid(
            f"the overlay was made for {digest.short(overlay.artifact_sha256)}, "
            f"the file is {digest.short(found)}: calibrate again"
        )
    patched = bytearray(artifact)
    for write in overlay.writes:
        end = write.offset + len(write.data)
        if write.offset < 0 or end > len(patched):
            raise _invalid(f"a write of {len(write.data)} bytes at {write.offset} is outside")
        patched[write.offset : end] = write.data
    return bytes(patched)


def materialize(artifact: Path, overlay_path: Path, into: Path) -> str:
    """Write the patched file to ``into`` and give its digest, for inspection and support."""
    patched = apply(artifact.read_bytes(), load(overlay_path))
    write_durably(into, patched)
    return digest.digest_bytes(patched)


def _invalid(message: str) -> JobError:
    return JobError("overlay_invalid", message, permanent=True)
