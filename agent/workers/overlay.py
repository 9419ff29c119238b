"""Overlays: what calibration changed, kept apart from the pristine file.

What runs is pristine plus overlay, put together in memory; what is done to the inputs is done
before every run (`agent.workers.inputs`). The pristine file is never written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent import durable
from agent.workers.child import JobError
from fitment.core import digest
from fitment.core.patch import (
    InputCorrection,
    Overlay,
    Write,
    overlay_id,
    parse_overlay,
    patched,
)


def make(
    artifact_sha256: str, writes: Iterable[Write] = (), *, correction: InputCorrection | None = None
) -> Overlay:
    """An overlay in order of offset; its id is the digest of what it changes."""
    ordered = tuple(sorted(writes, key=lambda write: write.offset))
    return Overlay(
        id=overlay_id(ordered, correction),
        artifact_sha256=artifact_sha256,
        writes=ordered,
        input=correction,
    )


def save(path: Path, overlay: Overlay) -> None:
    """Write canonical JSON, durably."""
    durable.write(path, digest.canonical(overlay))


def load(path: Path) -> Overlay:
    """Read what `save` wrote.

    Raises:
        JobError: ``overlay_invalid``; the file is missing, damaged, or not what its id says.
    """
    try:
        return parse_overlay(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} cannot be used: {error}") from error


def apply(artifact: bytes, overlay: Overlay) -> bytes:
    """The patched file's bytes; the pristine ones where only the inputs are corrected.

    Raises:
        JobError: ``overlay_invalid``; it was made for another file, or writes outside this one.
    """
    try:
        return patched(artifact, overlay)
    except ValueError as error:
        raise _invalid(str(error)) from error


def materialize(artifact: Path, overlay_path: Path, into: Path) -> str:
    """Write the patched file to ``into`` and give its digest, for inspection and support."""
    running = apply(artifact.read_bytes(), load(overlay_path))
    durable.write(into, running)
    return digest.digest_bytes(running)


def _invalid(message: str) -> JobError:
    return JobError("overlay_invalid", message, permanent=True)
