"""Reading /proc, /sys and friends below any root, so that a folder of text files is a board.

Every reader of hardware and sensors takes a `Tree`. On a device that is the disk below ``/``;
in tests and for emulated boards it is a folder or a text archive in memory. A file that is
missing or cannot be read is ``None``, never an exception and never 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

Run = Callable[[Sequence[str]], str | None]
"""Runs a command and gives what it printed, or None when it is missing, fails or hangs."""

_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS; more than that is a loop


class Tree(Protocol):
    """A root folder, wherever it is kept. Paths are relative to it, without a leading slash."""

    def read(self, path: str) -> bytes | None:
        """Content of a file, or None when it cannot be read."""
        ...

    def names(self, folder: str) -> tuple[str, ...]:
        """Sorted entries of a folder; empty when there is none."""
        ...

    def problem(self, path: str) -> str:
        """Why `read` gives None: ``missing``, ``permission denied``, …; empty when it does not."""
        ...


class DiskTree:
    """The files below a root folder. Absolute symbolic links are taken relative to that root."""

    __slots__ = ("_root",)

    def __init__(self, root: Path | str = "/") -> None:
        self._root = Path(root)

    def read(self, path: str) -> bytes | None:
        try:
            return self._resolve(path).read_bytes()
        except OSError:
            return None

    def names(self, folder: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in os.scandir(self._resolve(folder))))
        except OSError:
            return ()

    def problem(self, path: str) -> str:
        try:
            self._resolve(path).read_bytes()
        except FileNotFoundError:
            return "missing"
        except PermissionError:
            return "permission denied"
        except OSError as error:
            return (error.strerror or "cannot be read").lower()
        return ""

    def _resolve(self, path: str) -> Path:
        """Follow links by hand: the kernel would leave a root that is not ``/``."""
        if str(self._root) == "/":
            return self._root / path
        parts = [part for part in path.split("/") if part]
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = self._root.joinpath(*done, part)
            if not here.is_symlink():
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"too many links below {self._root / path}")
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            parts = [p for p in target.split("/") if p and p != "."] + parts
        return self._root.joinpath(*done)


class MemoryTree:
    """Files kept in memory: path to content."""

    __slots__ = ("_files",)

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def read(self, path: str) -> bytes | None:
        return self._files.get(path.strip("/"))

    def names(self, folder: str) -> tuple[str, ...]:
        prefix = folder.strip("/") + "/"
        below = (path[len(prefix) :] for path in self._files if path.startswith(prefix))
        return tuple(sorted({path.split("/", 1)[0] for path in below}))

    def problem(self, path: str) -> str:
        return "" if path.strip("/") in self._files else "missing"


def text(tree: Tree, path: str) -> str | None:
    """A file as text without surrounding white space or NULs, or None."""
    data = tree.read(path)
    return None if data is None else data.decode("utf-8", "replace").strip(" \t\r\n\0")


def strings(tree: Tree, path: str) -> tuple[str, ...]:
    """A device-tree string list: NUL-terminated strings."""
    data = tree.read(path) or b""
    return tuple(part.decode("utf-8", "replace") for part in data.split(b"\0") if part)


def integer(tree: Tree, path: str) -> int | None:
    """A file that holds one whole number, or None when it is missing or holds something else."""
    value = text(tree, path)
    try:
        return None if value is None else int(value, 0)
    except ValueError:
        return None


def find(tree: Tree, pattern: str) -> tuple[str, ...]:
    """Paths that match a pattern with ``*`` in its folder names, in natural order."""
    return tuple(sorted(_walk(tree, "", [p for p in pattern.split("/") if p]), key=_natural))


def _walk(tree: Tree, base: str, parts: list[str]) -> Iterator[str]:
    head, rest = parts[0], parts[1:]
    for name in _candidates(tree, base, head):
        path = f"{base}/{name}" if base else name
        if rest:
            yield from _walk(tree, path, rest)
        elif "*" in head or tree.names(path) or not tree.problem(path).startswith("missing"):
            yield path


def _candidates(tree: Tree, base: str, head: str) -> tuple[str, ...]:
    if "*" not in head:
        return (head,)
    return tuple(name for name in tree.names(base) if fnmatchcase(name, head))


def _natural(path: str) -> list[tuple[int, str]]:
    """``cpu10`` after ``cpu9``."""
    parts: list[tuple[int, str]] = []
    for piece in path.split("/"):
        digits = "".join(c for c in piece if c.isdigit())
        parts.append((int(digits) if digits else -1, piece))
    return parts


def run_command(command: Sequence[str]) -> str | None:
    """Run a vendor's tool for at most two seconds; None when it is missing or fails."""
    import subprocess

    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=2.0, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
