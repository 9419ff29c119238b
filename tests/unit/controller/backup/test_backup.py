"""A data directory as one file, and back: whole, or an error that says what to do."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import shutil
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from controller import cli
from controller.backup import archive, restore, take
from controller.domain import fleet
from controller.errors import Conflict, UserError
from controller.store import open_store, snapshot
from controller.trust import Trust
from fitment.core import plain


def quiet(_what: str, _done: float) -> None:
    return None


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "fleet"
    Trust.create(folder / "trust", folder / "offline")
    return folder


@pytest.fixture
def data(tmp_path: Path, trust: Path) -> Path:
    """A data directory with a bit of everything, and no controller on it."""
    folder = tmp_path / "fleet"
    shutil.copytree(trust, folder)
    with closing(open_store(f"sqlite:///{folder / 'fitment.db'}", "default")) as store:
        store.devices.put(fleet.Device(name="edge-1"))
    for name in ("blobs/sha256/ab/cd", "jobs/1/result.json", "broker/mosquitto.conf", "lock",
                 "controller.json", "deltas/x", "operator.token", "jobs/1/.part"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


@pytest.fixture
def backup(data: Path, tmp_path: Path) -> Path:
    target = tmp_path / "fleet.backup"
    take.take(data, target, progress=quiet)
    return target


def test_what_comes_back_is_what_was_there(data: Path, backup: Path, tmp_path: Path) -> None:
    steps: list[float] = []
    said = restore.restore(backup, tmp_path / "new", progress=lambda _, done: steps.append(done))
    new = tmp_path / "new"
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    for path in data.rglob("*"):
        name = path.relative_to(data).as_posix()
        if path.is_dir() or name.startswith("fitment.db"):
            continue
        kept = name.split("/")[0] not in take.MADE_AGAIN and not path.name.startswith(".")
        assert (new / name).exists() == kept, name
        if kept:
            assert (new / name).read_bytes() == path.read_bytes()
            assert (new / name).stat().st_mode & 0o777 == 0o600
    with closing(open_store(f"sqlite:///{new / 'fitment.db'}", "default")) as store:
        assert [device.name for device in store.devices.find()] == ["edge-1"]
    Trust.open(new / "trust", new / "offline")
    assert backup.stat().st_mode & 0o777 == 0o600
    marker = restore.marker(new)
    assert marker is not None
    assert (marker, marker.was) == (said, str(data.resolve()))
    restore.done(new)
    assert restore.marker(new) is None


def test_the_database_is_of_one_moment_while_it_is_written(data: Path, tmp_path: Path) -> None:
    """Two records change together; in no copy do they differ."""
    store = open_store(f"sqlite:///{data / 'fitment.db'}", "default")
    stop = threading.Event()

    def write() -> None:
        for number in range(1_000_000):
            if stop.is_set():
                return
            with store.transaction():
                store.set_setting("a", str(number) * 500)
                store.set_setting("b", str(number) * 500)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            take.take(data, tmp_path / f"{number}.backup", progress=quiet)
            restore.restore(tmp_path / f"{number}.backup", tmp_path / str(number), progress=quiet)
    finally:
        stop.set()
        writer.join()
        store.close()
    seen = set()
    for number in range(5):
        with closing(sqlite3.connect(tmp_path / str(number) / "fitment.db")) as copy:
            rows = dict(copy.execute("SELECT key, value FROM setting WHERE tenant = 'default'"))
        assert rows.get("a") == rows.get("b")
        seen.add(rows.get("a"))
    assert len(seen) > 1, "it was not written meanwhile"


def test_a_publication_during_the_copy_of_trust_is_read_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timestamp changes while the folder is read: what was read is thrown away."""
    told = iter([b"1", b"2", b"3", b"3"])
    monkeypatch.setattr(take, "_timestamp", lambda _: next(told))
    monkeypatch.setattr(take, "_PAUSE_S", 0.0)
    assert "trust/ca/ca.key" in take._trust(data)
    assert list(told) == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_backup_that_is_cut_short(backup: Path, tmp_path: Path, share: float) -> None:
    whole = backup.read_bytes()
    backup.write_bytes(whole[: int(len(whole) * share)])
    refused(backup, tmp_path, "cut short|is no backup")


def test_a_byte_that_changed(backup: Path, tmp_path: Path) -> None:
    whole = gzip.decompress(backup.read_bytes())
    place = whole.index(b"blobs/sha256/ab/cdblobs") + 30
    changed = whole[:place] + b"X" + whole[place + 1 :]
    backup.write_bytes(gzip.compress(changed, 1))
    refused(backup, tmp_path, "blobs/sha256/ab/cd is not what the manifest says")


def test_files_that_are_no_backup(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"hello", b"PK\x03\x04" * 100, gzip.compress(b"x"))):
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        refused(path, tmp_path, "is no backup of Fitment|cut short")
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as tar:
        tar.add(tmp_path / "1", "hello")
    refused(other, tmp_path, "does not begin with fitment-backup.json")


def written(path: Path, files: dict[str, bytes], **head: Any) -> None:
    """An archive by hand, with a manifest that is true."""
    facts = {"format": 1, "created_at": 1.0, "fitment": "9", "schema": 1, "data_dir": "/x"} | head
    with path.open("wb") as file, archive.writing(
        file, plain.from_plain(archive.Head, facts)
    ) as writer:  # fmt: skip
        for name, data in files.items():
            writer.add(name, io.BytesIO(data), len(data))
        writer.end(())


def test_a_newer_fitments_backup_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "b"
    written(path, {}, format=2)
    refused(path, tmp_path, "newer Fitment .9, format 2")
    written(path, {}, schema=snapshot.NEWEST + 1)
    refused(path, tmp_path, f"schema {snapshot.NEWEST + 1}, this one knows {snapshot.NEWEST}")


def test_a_database_that_is_damaged_is_not_restored(tmp_path: Path) -> None:
    path = tmp_path / "b"
    written(path, {"fitment.db": b"SQLite format 3\0 and then nothing"})
    with pytest.raises(UserError, match="no sound database"):
        restore.restore(path, tmp_path / "new", progress=quiet)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", ".", "a\0b"])
def test_no_file_leaves_the_new_directory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "b"
    assert not archive.is_below(name)
    if "\0" in name:
        return  # a tar cannot hold it
    written(path, {name: b"x"})
    refused(path, tmp_path, "which no backup does")
    assert not list(tmp_path.parent.glob("**/evil"))


def test_nothing_is_replaced(data: Path, backup: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="is there already"):
        take.take(data, backup, progress=quiet)
    with pytest.raises(Conflict, match="it holds something"):
        restore.restore(backup, data, progress=quiet)
    with (data / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="a controller runs on it"):
            restore.restore(backup, data, progress=quiet)
    (tmp_path / "empty").mkdir()
    restore.restore(backup, tmp_path / "empty", progress=quiet)
    assert (tmp_path / "empty" / "fitment.db").exists()


def test_where_there_is_nothing_to_back_up(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"no fitment\.db"):
        take.take(tmp_path, tmp_path / "b", progress=quiet)
    with pytest.raises(UserError, match="lies in the data directory"):
        take.take(data, data / "b", progress=quiet)
    assert list(tmp_path.glob(".b.*")) == []


def refused(path: Path, tmp_path: Path, words: str) -> None:
    """By both ways to read it, and no directory is left."""
    with pytest.raises(UserError, match=words):
        restore.check(path, progress=quiet)
    with pytest.raises(UserError, match=words):
        restore.restore(path, tmp_path / "new", progress=quiet)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / ".new.restoring").exists()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: json.loads(capsys.readouterr().out)


def test_the_commands(data: Path, tmp_path: Path, said: Any) -> None:
    target, new = tmp_path / "b", tmp_path / "new"
    assert cli.run(["backup", str(target), "--data-dir", str(data), "--json"]) == 0
    files = said()["files"]
    assert cli.run(["restore", str(target), "--check", "--json"]) == 0
    assert said()["files"] == files
    assert cli.run(["restore", str(target), "--data-dir", str(new), "--json"]) == 0
    assert said()["data_dir"] == str(new)
    assert cli.run(["restore", str(target), "--data-dir", str(new)]) == cli.USER_ERROR
    assert cli.run(["restore", str(target)]) == cli.USER_ERROR
    assert cli.run(["restore", str(tmp_path / "none"), "--check"]) == cli.USER_ERROR
