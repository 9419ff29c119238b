"""Steps of the seam: their order, their names, and that nothing half done is left."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import durable


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def note(name: str, path: Path, act: Callable[[], Any]) -> Any:
        made.append(f"{name} {path.name}")
        return act()

    monkeypatch.setattr(durable, "step", note)
    return made


def test_content_is_synced_before_its_name_and_the_name_before_all_else(
    steps: list[str], tmp_path: Path
) -> None:
    durable.write(tmp_path / "facts", b"1")
    folder = f"sync_folder {tmp_path.name}"
    assert steps == ["open .facts.new", "sync .facts.new", "rename facts", folder]
    (tmp_path / ".facts.new").write_bytes(b"what a power loss left")
    durable.write(tmp_path / "facts", b"2", permissions=0o600)
    assert steps[4:] == ["unlink .facts.new", "open .facts.new", "sync .facts.new",
                         "rename facts", folder]  # fmt: skip
    assert (tmp_path / "facts").read_bytes() == b"2"
    assert stat.S_IMODE((tmp_path / "facts").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["facts"]


def test_a_disk_that_refuses_leaves_the_old_content_and_no_other_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    durable.write(tmp_path / "facts", b"old")

    def refuse(_handle: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="broken"):
        durable.write(tmp_path / "facts", b"new")
    assert (tmp_path / "facts").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["facts"]


def test_a_file_system_without_folder_sync_is_lived_with_and_a_broken_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, raises in ((errno.EINVAL, False), (errno.EIO, True)):

        def refuse(_handle: int, number: int = number) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(os, "fsync", refuse)
        if raises:
            with pytest.raises(OSError, match="no"):
                durable.sync_folder(tmp_path)
        else:
            durable.sync_folder(tmp_path)


def test_each_missing_folder_is_durable_before_the_next(steps: list[str], tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a" / "b", mode=0o700)
    durable.make_folder(tmp_path / "a" / "b", mode=0o700)
    assert steps == ["mkdir a", f"sync_folder {tmp_path.name}", "mkdir b", "sync_folder a"]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_tree_goes_leaf_by_leaf_and_a_link_in_it_alone(steps: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").touch()
    (tree / "link").symlink_to(kept)
    durable.remove_tree(tree)
    durable.remove_tree(tree)
    assert (kept / "file").exists()
    assert steps == ["unlink file", "rmdir inner", "unlink link", "rmdir tree"] or steps == [
        "unlink file", "unlink link", "rmdir inner", "rmdir tree",
    ]  # fmt: skip


def test_a_link_points_to_the_old_place_or_the_new(steps: list[str], tmp_path: Path) -> None:
    durable.point(tmp_path / "active", "a")
    durable.point(tmp_path / "active", "b")
    assert (tmp_path / "active").readlink() == Path("b")
    one = ["symlink .active.new", "rename active", f"sync_folder {tmp_path.name}"]
    assert steps == [*one, *one]


def test_what_a_write_left_half_done_goes_with_what_it_wrote(tmp_path: Path) -> None:
    for name in ("overlay.json", ".overlay.json.new", "other"):
        (tmp_path / name).touch()
    durable.remove_written(tmp_path / "overlay.json")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
