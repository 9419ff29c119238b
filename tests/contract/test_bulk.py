"""One suite for every place where blobs live, and the way of a bundle through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.jobs import StageJob
from agent.workers import stage
from controller.artifacts.blobs import Blobs, FolderBlobs
from controller.artifacts.memory import MemoryBlobs
from controller.artifacts.packing import pack_into
from controller.errors import NotFound, UserError
from fitment.core import digest
from tests.integration.trust_server import make_bundle

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return FolderBlobs(tmp_path / "blobs") if request.param == "folder" else MemoryBlobs()


def test_bytes_come_back_under_their_digest(blobs: Blobs) -> None:
    name = blobs.put_bytes(DATA)
    assert name == digest.digest_bytes(DATA)
    assert blobs.has(name)
    assert blobs.size(name) == len(DATA)
    with blobs.open(name) as file:
        assert file.read() == DATA


def test_files_are_copied(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    name = blobs.put_file(path)
    path.write_bytes(b"changed")
    assert name == digest.digest_bytes(DATA)
    assert blobs.read(name, 0, len(DATA)) == DATA


def test_putting_again_changes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    assert blobs.put_bytes(DATA) == blobs.put_bytes(DATA) == blobs.put_file(tmp_path / "source")
    assert blobs.size(digest.digest_bytes(DATA)) == len(DATA)


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 10, DATA[:10]),
        (100, 50, DATA[100:150]),
        (len(DATA) - 3, 10, DATA[-3:]),
        (len(DATA), 10, b""),
        (len(DATA) + 5, 10, b""),
        (5, 0, b""),
    ],
)
def test_ranges(blobs: Blobs, offset: int, size: int, expected: bytes) -> None:
    assert blobs.read(blobs.put_bytes(DATA), offset, size) == expected


def test_negative_ranges_are_refused(blobs: Blobs) -> None:
    name = blobs.put_bytes(DATA)
    for offset, size in ((-1, 5), (0, -1)):
        with pytest.raises(UserError, match="negative"):
            blobs.read(name, offset, size)


def test_the_empty_blob_is_one(blobs: Blobs) -> None:
    assert blobs.size(blobs.put_bytes(b"")) == 0


def test_what_is_not_there_is_said(blobs: Blobs) -> None:
    name = digest.digest_bytes(b"never stored")
    assert not blobs.has(name)
    for call in (blobs.open, blobs.size, lambda d: blobs.read(d, 0, 1)):
        with pytest.raises(NotFound):
            call(name)


@pytest.mark.parametrize(
    "name", ["", "x", "sha256:", "sha256:" + "A" * 64, "sha256:../../etc", "sha256:" + "a" * 65]
)
def test_nothing_but_a_digest_is_a_name(blobs: Blobs, name: str) -> None:
    for call in (blobs.open, blobs.size, blobs.has, lambda d: blobs.read(d, 0, 1)):
        with pytest.raises(UserError, match="not a digest"):
            call(name)


def test_nothing_temporary_stays_in_the_folder(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    name = blobs.put_bytes(DATA)
    with pytest.raises(FileNotFoundError):
        blobs.put_file(tmp_path / "nowhere")
    assert [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == [blobs.path(name)]
    assert FolderBlobs(tmp_path / "blobs").read(name, 0, 4) == DATA[:4]  # after a restart


def test_a_bundle_goes_through_and_is_the_same(blobs: Blobs, tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", content=DATA)
    packed = pack_into(folder, blobs, tmp_path)
    archive = tmp_path / "received"
    archive.write_bytes(blobs.read(packed.archive, 0, packed.archive_bytes))
    job = StageJob(
        result="", archive_path=str(archive), folder=str(tmp_path / "s"), variant=packed.variant
    )
    stage.handle(job)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        assert (tmp_path / "s" / path.relative_to(folder)).read_bytes() == path.read_bytes()
