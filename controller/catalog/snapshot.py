"""Snapshots: a workload's files under one digest, taken without running them.

The controller's own process only ever parses a workload file (`ast`); it is code, and code of
users runs in workers alone.
"""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from controller.errors import WorkloadError
from fitment.core import digest

WORKLOAD_FILE = "workload.py"
REQUIRED_FUNCTIONS = ("source", "data", "metric")
REQUIRED_VALUES = ("name", "version", "input_shape")
_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a workload file says of itself in plain literals."""

    name: str
    version: str
    files: tuple[str, ...] = ()  # relative to the workload file


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A copy of the workload file (as ``workload.py``) and the files it declares."""

    digest: str  # over the relative paths and contents
    folder: Path
    name: str
    version: str


def describe(path: Path) -> Description:
    """Read name, version and files of the workload file at ``path`` without running it.

    Raises:
        WorkloadError: the file is missing, is not Python, or lacks a name that is needed.
    """
    tree = _parse(path)
    values = _literals(tree)
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assigned = set(values) | _assigned(tree) | functions
    missing = [n for n in (*REQUIRED_VALUES, *REQUIRED_FUNCTIONS) if n not in assigned]
    if missing:
        raise WorkloadError(
            f"{path}: no {_spoken(missing)}; a workload file defines name, version, "
            "input_shape, source(), data(split) and metric(outputs, labels)"
        )
    files = values.get("files", ())
    if "files" in assigned and "files" not in values:
        raise WorkloadError(f"{path}: write `files` as a plain list of strings, such as ['a.bin']")
    if not isinstance(files, list | tuple) or not all(isinstance(f, str) for f in files):
        raise WorkloadError(f"{path}: `files` holds relative paths as strings, not {files!r}")
    return Description(
        name=_plain_name(path, "name", values.get("name")),
        version=_plain_name(path, "version", values.get("version")),
        files=tuple(files),
    )


def snapshot(path: Path, into: Path) -> Snapshot:
    """Copy the workload and its declared files to ``into/<hex of the digest>``.

    Taking the same content twice gives the same folder. ``path`` may be the file or a folder
    that holds a ``workload.py``.

    Raises:
        WorkloadError: a declared file is missing or lies outside the workload's folder.
    """
    source = path / WORKLOAD_FILE if path.is_dir() else path
    described = describe(source)
    files = _files(source, described)
    identity = _identity(files)
    folder = into / digest.hex_of(identity)
    if not folder.is_dir():
        _copy(files, folder)
    return Snapshot(digest=identity, folder=folder, name=described.name, version=described.version)


def content_digest(folder: Path) -> str:
    """The digest of the workload in ``folder``, as its snapshot has it.

    Raises:
        WorkloadError: as `snapshot`.
    """
    source = folder / WORKLOAD_FILE
    return _identity(_files(source, describe(source)))


def _files(source: Path, described: Description) -> dict[str, Path]:
    files = {WORKLOAD_FILE: source}
    for declared in described.files:
        files.update(_declared(source, declared))
    return files


def _identity(files: dict[str, Path]) -> str:
    return digest.digest_of({name: _digest_file(file) for name, file in sorted(files.items())})


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except FileNotFoundError as error:
        raise WorkloadError(f"{path}: there is no such workload file") from error
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise WorkloadError(f"{path}: not a Python file: {error}") from error


def _targets(node: ast.stmt) -> list[tuple[str, ast.expr | None]]:
    if isinstance(node, ast.Assign):
        return [pair for target in node.targets for pair in _unpacked(target, node.value)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [(node.target.id, node.value)]
    return []


def _unpacked(target: ast.expr, value: ast.expr | None) -> list[tuple[str, ast.expr | None]]:
    """Names with what they get: ``name, version = "a", "1"`` is usual, too."""
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if not isinstance(target, ast.Tuple | ast.List):
        return []
    parts: list[ast.expr | None] = [None] * len(target.elts)
    if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(parts):
        parts = list(value.elts)
    return [
        pair
        for inner, part in zip(target.elts, parts, strict=True)
        for pair in _unpacked(inner, part)
    ]


def _literals(tree: ast.Module) -> dict[str, object]:
    values: dict[str, object] = {}
    for node in tree.body:
        for name, value in _targets(node):
            with suppress(ValueError, TypeError, SyntaxError):
                values |= {} if value is None else {name: ast.literal_eval(value)}
    return values


def _assigned(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        names.update(name for name, _ in _targets(node))
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((a.asname or a.name) for a in node.names)
    return names


def _spoken(names: Iterable[str]) -> str:
    return " and no ".join(f"`{name}`" for name in names)


def _plain_name(path: Path, what: str, value: object) -> str:
    if not isinstance(value, str) or not value or not set(value) <= _NAME_CHARACTERS:
        raise WorkloadError(
            f"{path}: `{what}` is a plain string of letters, digits, '_', '-' and '.' "
            f"(it names files and slots), not {value!r}"
        )
    return value


def _declared(source: Path, declared: str) -> dict[str, Path]:
    base = source.parent.resolve()
    file = (base / declared).resolve()
    if Path(declared).is_absolute() or not file.is_relative_to(base):
        raise WorkloadError(
            f"{source}: the declared file '{declared}' lies outside the workload's folder; "
            "put it beside the workload file and give its relative path"
        )
    if file.is_dir():
        inner = [f for f in sorted(file.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
        own = [f for f in inner if f.resolve().is_relative_to(base)]
        return {f.relative_to(base).as_posix(): f for f in own}
    if not file.is_file():
        raise WorkloadError(f"{source}: the declared file '{declared}' is missing")
    return {file.relative_to(base).as_posix(): file}


def _digest_file(file: Path) -> str:
    with file.open("rb") as stream:
        return digest.digest_chunks(iter(lambda: stream.read(1 << 20), b""))


def _copy(files: dict[str, Path], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".snapshot-") as temporary:
        staged = Path(temporary) / "content"
        for name, file in files.items():
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            staged.rename(folder)
        except OSError:
            if not os.path.isdir(folder):  # noqa: PTH112 - another process may have been first
                raise
