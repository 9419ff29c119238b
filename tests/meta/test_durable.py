"""Nothing in `agent/` writes to the disk but through `agent.durable`, where power cuts fall."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

SEAM = "agent/durable.py"
ALLOWED = {
    "agent/testing.py": {
        ".mkdir .write_bytes .write_text .unlink": "the tests' twins of workers",
    },
    "agent/hardware/boards/__init__.py": {
        ".mkdir .write_bytes .symlink_to": "unpacks pictures of other boards' /proc and /sys",
    },
    "agent/build.py": {"open": "the lock file: it is empty, its lock dies with the process"},
    "agent/peers.py": {".chmod": "of a socket, which no power loss outlives"},
    "agent/journal.py": {".execute ._all": "hands a query on; where it is written it is read here"},
    "agent/runner.py": {"open": "the worker's stderr: lost with the process, swept at a start"},
    "agent/workers/child.py": {"open": "a pipe: no disk"},
    "agent/workers/keys.py": {".chmod": "repeated at every enrolment, whatever was there"},
    "agent/workers/memory_use.py": {".write_text": "/proc: no disk"},
    "agent/workers/mirror.py": {"open": "of an address: no disk"},
    "agent/workers/runtimes/onnx.py": {"tempfile.TemporaryDirectory": "a profile, read at once"},
    "agent/workers/serve.py": {".chmod": "of a socket, which no power loss outlives"},
    "agent/workers/serving/open_inference.py": {".chmod": "of a socket as well"},
}
"""File -> calls that are no durable writes -> why not."""

PATH_CALLS = frozenset({
    "chmod", "commit", "executescript", "hardlink_to", "lchmod", "mkdir", "rename", "rmdir",
    "symlink_to", "touch", "unlink", "write_bytes", "write_text",
})  # fmt: skip
OS_CALLS = frozenset({
    "chmod", "fdatasync", "fsync", "ftruncate", "link", "makedirs", "mkdir", "mkfifo", "open",
    "remove", "removedirs", "rename", "renames", "replace", "rmdir", "symlink", "sync", "truncate",
    "unlink", "write",
})  # fmt: skip
SQL_READERS = frozenset({"execute", "executemany", "rows", "_all"})
SQL_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|CREATE|DROP|ALTER|COMMIT|END|VACUUM)\b")
MODULES: dict[str, Callable[[str], bool]] = {
    "os": OS_CALLS.__contains__,
    "shutil": lambda name: name not in ("disk_usage", "which"),
    "tempfile": lambda _name: True,
    "tarfile": lambda _name: False,
    "durable": lambda _name: False,
}
"""Which of a module's functions write."""


def test_the_seam_is_the_only_way_to_the_disk(root: Path) -> None:
    found = {name: set(calls) for name, calls in ways_to_the_disk(root).items()}
    allowed = {
        name: {call for calls in reasons for call in calls.split()}
        for name, reasons in ALLOWED.items()
    }
    assert {name: calls - allowed.get(name, set()) for name, calls in found.items()
            if calls - allowed.get(name, set())} == {}  # fmt: skip
    assert {name: calls - found.get(name, set()) for name, calls in allowed.items()
            if calls - found.get(name, set())} == {}, "no longer needed"  # fmt: skip


def test_what_writes_is_recognized() -> None:
    text = """
os.replace(a, b); path.replace(b); text.replace("a", "b"); open(p); open(p, "w"); p.open("ab")
p.open(mode=m); shutil.rmtree(p); shutil.disk_usage(p); tempfile.mkstemp(); c.commit()
c.execute("SELECT 1"); c.execute("DELETE FROM t"); c.execute(query); replace(record, a=1)
with journal.transaction() as db:
    db.execute("DELETE FROM t")
"""
    assert sorted(calls_that_write(ast.parse(text))) == [
        ".commit", ".execute", ".execute", ".replace", "open", "open", "open", "os.replace",
        "shutil.rmtree", "tempfile.mkstemp",
    ]  # fmt: skip


def ways_to_the_disk(root: Path) -> dict[str, list[str]]:
    """Calls that write, by file."""
    found = {}
    for path in sorted((root / "agent").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        calls = [] if name == SEAM else list(calls_that_write(ast.parse(path.read_text())))
        if calls:
            found[name] = calls
    return found


def calls_that_write(tree: ast.AST, *, in_transaction: bool = False) -> Iterator[str]:
    """Calls below ``tree`` that change a disk, or may."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield from _judge(node, in_transaction=in_transaction)
        inside = in_transaction or (isinstance(node, ast.With) and _is_transaction(node))
        yield from calls_that_write(node, in_transaction=inside)


def _judge(call: ast.Call, *, in_transaction: bool) -> Iterator[str]:
    """Modules go by their name; every other owner counts as a path or a connection."""
    function = call.func
    if isinstance(function, ast.Name):
        if function.id == "open" and _may_write(call, position=1):
            yield "open"
    elif isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        if owner in MODULES:
            if MODULES[owner](function.attr):
                yield f"{owner}.{function.attr}"
        elif _is_write(call, function.attr, in_transaction=in_transaction):
            yield "open" if function.attr == "open" else f".{function.attr}"


def _is_write(call: ast.Call, name: str, *, in_transaction: bool) -> bool:
    if name == "open":
        return _may_write(call, position=0)
    if name == "replace":
        return len(call.args) == 1 and not call.keywords  # a string's has two
    if name in SQL_READERS:
        return not in_transaction and _sql_may_write(call)
    return name in PATH_CALLS


def _may_write(call: ast.Call, *, position: int) -> bool:
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[position:][:1]
    if not modes:
        return False
    mode = modes[0]
    return not isinstance(mode, ast.Constant) or any(c in str(mode.value) for c in "wax+")


def _sql_may_write(call: ast.Call) -> bool:
    sql = call.args[0] if call.args else None
    if not isinstance(sql, ast.Constant):
        return True
    return SQL_WRITES.match(str(sql.value)) is not None


def _is_transaction(node: ast.With) -> bool:
    calls = (item.context_expr for item in node.items)
    names = (c.func.attr for c in calls if isinstance(c, ast.Call)
             and isinstance(c.func, ast.Attribute))  # fmt: skip
    return "transaction" in names
