"""Text archives, and trees that never leave their root."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.hardware import BoardError, boards
from agent.sysfs import DiskTree, MemoryTree, find, integer, run_command, strings, text

ARCHIVE = """A comment.

== proc/a
one
\\== escaped

two

== proc/list nul
first
second
== proc/empty
=> sys/link /proc
"""


def test_an_archive_becomes_files(tmp_path: Path) -> None:
    boards.unpack_archive(boards.parse(ARCHIVE, "test"), tmp_path)
    tree = DiskTree(tmp_path)
    assert text(tree, "proc/a") == "one\n== escaped\n\ntwo"
    assert strings(tree, "proc/list") == ("first", "second")
    assert tree.read("proc/empty") == b""
    assert text(tree, "sys/link/a") == text(tree, "proc/a")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        ("== /etc/passwd\n", "must stay below the root"),
        ("== a/../../b\n", "must stay below the root"),
        ("== a b\n", "'b' is unknown"),
        ("== a nul c\n", "line 1: expected"),
        ("=> a\n", "line 1: expected"),
        ("\n== \n", "line 2: expected"),
    ],
)
def test_malformed_archives_are_refused(archive: str, message: str) -> None:
    with pytest.raises(BoardError, match=message):
        boards.parse(archive, "test")


def test_shipped_boards_hold_no_serial_number() -> None:
    assert boards.names() == ("imx93", "jetson-orin-nano", "raspberry-pi-5", "rk3588")
    for name in boards.names():
        assert not [path for path in boards.load(name).files if "serial" in path]


def test_memory_and_disk_trees_agree(tmp_path: Path) -> None:
    archive = boards.load("rk3588")
    boards.unpack_archive(archive, tmp_path)
    disk, memory = DiskTree(tmp_path), MemoryTree(archive.files)
    pattern = "proc/device-tree/cpus/cpu@*/compatible"
    assert find(disk, pattern) == find(memory, pattern)
    assert len(find(disk, pattern)) == 8
    assert disk.names("proc") == memory.names("proc")
    for path in archive.files:
        assert disk.read(path) == memory.read(path)
        assert disk.problem(path) == memory.problem(path) == ""
    assert disk.problem("nowhere") == memory.problem("nowhere") == "missing"


def test_links_stay_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (root / "etc/up").symlink_to("../../secret")
    (root / "etc/absolute").symlink_to(tmp_path / "secret")
    (root / "etc/loop").symlink_to("loop")
    tree = DiskTree(root)
    assert [tree.read(f"etc/{name}") for name in ("up", "absolute", "loop")] == [None] * 3


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 0):
        (tmp_path / f"cpu{number}").mkdir()
        (tmp_path / f"cpu{number}/x").write_text("0x10")
    tree = DiskTree(tmp_path)
    assert find(tree, "cpu*/x") == ("cpu0/x", "cpu9/x", "cpu10/x")
    assert find(tree, "cpu*/y") == ()
    assert integer(tree, "cpu9/x") == 16
    assert integer(tree, "cpu9/y") is None


def test_a_tool_that_is_missing_or_fails_is_none() -> None:
    assert run_command(("fitment-no-such-tool",)) is None
    assert run_command(("false",)) is None
    assert run_command(("echo", "yes")) == "yes\n"
