"""The house's numbers: short files, short functions, few arguments, few catch-alls."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

FILE_LINES = 450
FUNCTION_LINES = 60
BROAD_HANDLERS = 5
ROOMS = ("agent", "controller", "profiles", "protos")
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def sources(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    paths = [root / name for name in listed if "_pb2" not in name]
    return [path for path in paths if path.exists()]


def ours(root: Path) -> list[Path]:
    return [p for p in sources(root) if p.relative_to(root).parts[0] in ROOMS]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(node, clean=False)
    first = node.body[1 if docstring is not None and len(node.body) > 1 else 0]
    return (node.end_lineno or 0) - first.lineno + 1


def test_files_are_short(root: Path) -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in sources(root)}
    assert {str(p): n for p, n in lengths.items() if n > FILE_LINES} == {}
    assert statistics.median(lengths[p] for p in ours(root)) <= 200


def test_functions_are_short(root: Path) -> None:
    long = {
        f"{path.relative_to(root)}:{node.lineno} {node.name}": body_lines(node)
        for path in sources(root)
        for node in functions(path)
        if body_lines(node) > FUNCTION_LINES
    }
    assert long == {}


def test_catch_alls_are_few(root: Path) -> None:
    broad = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in ours(root)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and _is_broad(node)
    ]
    assert len(broad) <= BROAD_HANDLERS, broad


def _is_broad(node: ast.ExceptHandler) -> bool:
    names = ("Exception", "BaseException")
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in names)


def test_nothing_is_left_over(root: Path) -> None:
    left = [
        f"{path.relative_to(root)}:{number}"
        for path in sources(root)
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LEFTOVER.search(line)
    ]
    assert left == []


def test_every_module_with_code_says_why_it_exists(root: Path) -> None:
    silent = [
        str(path.relative_to(root))
        for path in ours(root)
        if path.name != "__init__.py" and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


@pytest.mark.parametrize(
    "room",
    [
        "agent", "agent/hardware", "agent/sensors", "agent/workers", "controller",
        "controller/artifacts", "controller/backup", "controller/catalog", "controller/compress",
        "controller/conformance", "controller/dashboard", "controller/domain",
        "controller/gateway", "controller/reconcile", "controller/simulator", "controller/store",
        "controller/trust",
        "deploy", "profiles", "protos",
    ],
)  # fmt: skip
def test_every_room_has_its_charter(root: Path, room: str) -> None:
    charter = (root / room / "README.md").read_text()
    assert len(charter.splitlines()) <= 80
    assert "never" in charter.lower(), "a charter says what never happens in its room"
