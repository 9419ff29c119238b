"""The seam: everything that the agent writes reaches the disk through here, a named step at a time.

A step is the smallest change that a power loss can fall before or after. Supervisor and workers
have no other way to the disk (`tests/meta/test_durable.py` reads the sources for it), so a test
that stands in for `step` meets every one of them, also those that are written next year.

Order is what makes a change whole: content is synced before its name appears, and the name is
synced before anything relies on it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import sqlite3  # workers that never see the journal need not load it

T = TypeVar("T")

_NEW: Final = ".new"
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""Of file systems that cannot sync a folder; a rename is atomic on them as well."""


def step(name: str, path: Path, act: Callable[[], T]) -> T:
    """One change of the disk. Here it is only made; tests let the power go around it."""
    del name, path
    return act()


def make_folder(path: Path, *, mode: int = 0o755) -> None:
    """Make a folder and what is missing above it; each name is durable before the next."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        # Somebody else may be quicker; parents get the same mode, since they are as private.
        step("mkdir", folder, functools.partial(folder.mkdir, mode=mode, exist_ok=True))
        sync_folder(folder.parent)


def open_file(path: Path, mode: str, *, permissions: int = 0o666) -> IO[bytes]:
    """Open for writing: ``xb`` a file that must be new, ``ab`` at its end. Ends with `sync`."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, permissions)

    return step("open", path, lambda: open(path, mode, opener=opener))


def sync(file: IO[bytes]) -> None:
    """Make the content written so far durable."""

    def act() -> None:
        file.flush()
        os.fsync(file.fileno())

    step("sync", Path(file.name), act)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""

    def act() -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(handle)

    step("sync_folder", folder, act)


def replace(path: Path, target: Path) -> None:
    """Give ``path`` the name ``target``, at once; durable after `sync_folder`."""
    step("rename", target, lambda: path.replace(target))


def write(path: Path, data: bytes, *, permissions: int = 0o666) -> None:
    """Replace ``path`` whole: a reader finds the old content or the new, whatever happens.

    The file beside it has a fixed name: what a power loss left there is used up by the next try,
    where names of their own would pile up.
    """
    temporary = _beside(path)
    remove(temporary)
    try:
        with open_file(temporary, "xb", permissions=permissions) as file:
            file.write(data)
            sync(file)
        replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    sync_folder(path.parent)


def write_scratch(path: Path, data: bytes) -> None:
    """Write what only this process and its worker need: it is not there after a power loss."""
    step("scratch", path, lambda: path.write_bytes(data))


def point(link: Path, target: str) -> None:
    """Let a symbolic link point to ``target``; who follows it finds the old place or the new."""
    temporary = _beside(link)
    remove(temporary)
    step("symlink", temporary, lambda: temporary.symlink_to(target))
    replace(temporary, link)
    sync_folder(link.parent)


def remove(path: Path) -> None:
    """Take a file or link away; one that is not there costs nothing."""
    if os.path.lexists(path):
        step("unlink", path, lambda: path.unlink(missing_ok=True))


def remove_written(path: Path) -> None:
    """Take away what `write` wrote, or left half done."""
    remove(_beside(path))
    remove(path)


def remove_tree(folder: Path) -> None:
    """Take a folder away with all that is in it, as far as the disk allows."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            _remove_entry(Path(place, name))
    _remove_entry(folder)


def commit(connection: sqlite3.Connection, path: Path) -> None:
    """End a transaction; it is durable when this returns."""
    step("commit", path, connection.commit)


def run_script(connection: sqlite3.Connection, path: Path, script: str) -> None:
    """Run SQL that changes the file by itself: the journal's mode and its migrations."""
    step("script", path, lambda: connection.executescript(script))


def _remove_entry(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            step("rmdir", path, path.rmdir)
        else:
            remove(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_NEW}")
