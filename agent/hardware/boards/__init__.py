"""Boards as text archives: the files that a real board shows, for emulation and tests.

An archive is text. ``== PATH`` begins a file whose content is the following lines; ``== PATH nul``
makes each line a NUL-terminated string, as in a device tree; ``=> PATH TARGET`` is a symbolic
link. Lines before the first of these are comments. A content line that would begin with ``== ``
or ``=> `` is written with a backslash before it. Serial numbers are left out: they name one
machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import ConfigError

_SUFFIX = ".tree"


class BoardError(ConfigError):
    """An unknown board or a malformed archive; the message says which and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Files and links by path, relative to the board's root."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def names() -> tuple[str, ...]:
    """Boards that ship with the agent."""
    return tuple(sorted(path.stem for path in _folder().glob(f"*{_SUFFIX}")))


def load(board: str) -> Archive:
    """Parse a shipped board.

    Raises:
        BoardError: there is no such board.
    """
    if board not in names():
        raise BoardError(f"no board '{board}' to emulate; there are: {', '.join(names())}")
    return parse((_folder() / (board + _SUFFIX)).read_text(encoding="utf-8"), origin=board)


def parse(archive: str, origin: str) -> Archive:
    """Parse the text of an archive; ``origin`` names it in errors.

    Raises:
        BoardError: a header is malformed or a path leaves the root.
    """
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    path, nul, lines = "", False, list[str]()
    for number, line in enumerate(archive.splitlines(), start=1):
        if not line.startswith(("== ", "=> ")):
            lines.append(line[1:] if line.startswith(("\\== ", "\\=> ")) else line)
            continue
        if path:
            files[path] = _content(lines, nul=nul)
        where = f"{origin}, line {number}"
        path, lines = "", []
        if line.startswith("=> "):
            source, target = _fields(line, where, 2)
            links[_safe(source, where)] = target
        else:
            name, kind = [*_fields(line, where, None), ""][:2]
            if kind not in ("", "nul"):
                raise BoardError(f"{where}: '{kind}' is unknown; a file is '== PATH' or '… nul'")
            path, nul = _safe(name, where), kind == "nul"
    if path:
        files[path] = _content(lines, nul=nul)
    return Archive(files=files, links=links)


def unpack(board: str, into: Path) -> Path:
    """Write a shipped board below ``into`` and return it: a root for every reader."""
    return unpack_archive(load(board), into)


def unpack_archive(archive: Archive, into: Path) -> Path:
    """Write an archive below ``into`` and return it."""
    for path, data in archive.files.items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for path, to in archive.links.items():
        link = into / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(to)
    return into


def _folder() -> Path:
    return Path(__file__).resolve().parent


def _fields(line: str, where: str, count: int | None) -> list[str]:
    fields = line.split()[1:]
    if not fields or (count is not None and len(fields) != count) or len(fields) > 2:
        raise BoardError(f"{where}: expected '== PATH [nul]' or '=> PATH TARGET', got {line!r}")
    return fields


def _safe(path: str, where: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise BoardError(f"{where}: the path '{path}' must stay below the root")
    return path


def _content(lines: list[str], *, nul: bool) -> bytes:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    end = "\0" if nul else "\n"
    return "".join(line + end for line in lines).encode()
