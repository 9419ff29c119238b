"""Private files: written whole and durably, readable by their owner only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from controller.disk import sync_folder
from controller.errors import TrustError


def make_private_folder(folder: Path) -> None:
    """Make ``folder`` (and its parents) with mode 0700."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: a reader sees the old bytes or the new, never a part.

    The file has mode 0600 from its first byte on; file and folder are synced.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already when it took its place
    sync_folder(path.parent)


def read_required(path: Path, what: str) -> bytes:
    """Read a file without which nothing goes on.

    Raises:
        TrustError: it is not there or cannot be read; the message names it and says what to do.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise TrustError(
            f"{what} is missing: {path} does not exist. Restore the trust folder from a backup, "
            "or start with a new data folder and enrol every device again."
        ) from error
    except PermissionError as error:
        raise TrustError(
            f"{what} cannot be read: {path}. Run as the user who owns it; its mode is 0600."
        ) from error
