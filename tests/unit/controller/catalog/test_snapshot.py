"""Snapshots are named by content and taken without running the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controller.catalog import snapshot
from controller.errors import WorkloadError

Writer = Callable[..., Path]


def test_describing_does_not_run_the_file(write: Writer) -> None:
    folder = write(extra="raise SystemExit('it ran')")
    described = snapshot.describe(folder / "workload.py")
    assert (described.name, described.version, described.files) == ("tiny", "1", ())


def test_the_same_content_gives_the_same_snapshot(write: Writer, tmp_path: Path) -> None:
    folder = write()
    first = snapshot.snapshot(folder, tmp_path / "into")
    again = snapshot.snapshot(folder / "workload.py", tmp_path / "into")
    assert first == again
    assert [f.name for f in (tmp_path / "into").iterdir()] == [first.folder.name]
    assert snapshot.content_digest(first.folder) == first.digest


def test_a_declared_file_belongs_to_the_digest(write: Writer, tmp_path: Path) -> None:
    folder = write(extra='files = ["weights", "note.txt"]')
    (folder / "weights").mkdir()
    (folder / "weights" / "a.bin").write_bytes(b"one")
    (folder / "note.txt").write_text("n")
    first = snapshot.snapshot(folder, tmp_path / "into")
    assert (first.folder / "weights" / "a.bin").read_bytes() == b"one"
    (folder / "weights" / "a.bin").write_bytes(b"two")
    assert snapshot.snapshot(folder, tmp_path / "into").digest != first.digest


def test_names_may_be_given_in_one_line(write: Writer) -> None:
    extra = '(name, other), (version, files) = ("deer", len("x")), ("7", ["a.bin"])'
    described = snapshot.describe(write(extra=extra) / "workload.py")
    assert (described.name, described.version, described.files) == ("deer", "7", ("a.bin",))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('files = ["absent.bin"]', "'absent.bin' is missing"),
        ('files = ["../secret"]', "lies outside the workload's folder"),
        ('files = ["/etc/passwd"]', "lies outside the workload's folder"),
        ("files = sorted(['a'])", "plain list of strings"),
        ("files = [1]", "relative paths as strings"),
        ("a, files = str(), list()", "plain list of strings"),
        ("version = 3", "`version` is a plain string"),
        ('name = "../x"', "`name` is a plain string"),
        ("name = ", "not a Python file"),
    ],
)
def test_what_is_wrong_is_said(write: Writer, tmp_path: Path, extra: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        snapshot.snapshot(write(extra=extra), tmp_path / "into")


@pytest.mark.parametrize("gone", ["source", "data", "metric"])
def test_a_missing_function_is_named(write: Writer, gone: str) -> None:
    folder = write((f"def {gone}(", f"def other_{gone}("))
    with pytest.raises(WorkloadError, match=f"no `{gone}`"):
        snapshot.describe(folder / "workload.py")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no such workload file"):
        snapshot.describe(tmp_path / "workload.py")
