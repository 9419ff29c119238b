"""The transport form of bundles."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from controller.artifacts.memory import MemoryBlobs
from controller.artifacts.packing import bundle_ref, pack, pack_into, read_manifest
from controller.errors import UserError
from fitment.core import digest
from fitment.core.bundle import BundleManifest, FileEntry
from tests.integration.trust_server import make_bundle


def write_manifest(folder: Path, *entries: FileEntry) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_bytes(digest.canonical(BundleManifest(files=entries)))


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "a", content=os.urandom(50_000))
    first = pack(folder, tmp_path / "1.tar.xz")
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "model.onnx").touch()
    (tmp_path / "b" / "model.onnx").chmod(0o755)
    second = pack(tmp_path / "b", tmp_path / "2.tar.xz")
    assert first == second
    data = (tmp_path / "1.tar.xz").read_bytes()
    assert data == (tmp_path / "2.tar.xz").read_bytes()
    assert (first.archive, first.archive_bytes) == (digest.digest_bytes(data), len(data))
    assert first.variant == digest.digest_bytes((folder / "bundle.json").read_bytes())


def test_it_holds_the_listed_files_and_tells_nothing_else(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "a")
    pack(folder, tmp_path / "a.tar.xz")
    with tarfile.open(tmp_path / "a.tar.xz") as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["bundle.json", "golden/inputs.npy", "model.onnx"]
    facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members}
    assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_unpacking_asks_for_little_memory(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "a", content=os.urandom(300_000))
    pack(folder, tmp_path / "a.tar.xz")
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * 1024 * 1024)
    assert decoder.decompress((tmp_path / "a.tar.xz").read_bytes())


def test_the_reference_says_how_to_fetch_it(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    packed = pack_into(make_bundle(tmp_path / "a"), blobs, tmp_path)
    ref = bundle_ref(packed, "int8")
    assert ref.target == f"bundles/{packed.variant.removeprefix('sha256:')}.tar.xz"
    assert blobs.size(ref.archive) == ref.archive_bytes
    assert read_manifest(tmp_path / "a").name == "int8"


def test_bad_folders_are_refused_with_the_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle"):
        pack(tmp_path, tmp_path / "x")
    folder = make_bundle(tmp_path / "a")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"not listed in bundle\.json: notes\.txt"):
        pack(folder, tmp_path / "x")
    (folder / "notes.txt").unlink()
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"'model\.onnx' differs"):
        pack(folder, tmp_path / "x")
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match="no regular file"):
        pack(folder, tmp_path / "x")


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "", "./a", "a//b"])
def test_paths_stay_inside(tmp_path: Path, path: str) -> None:
    write_manifest(tmp_path / "b", FileEntry(path=path, sha256=digest.digest_bytes(b""), size=0))
    with pytest.raises(UserError, match="relative path"):
        pack(tmp_path / "b", tmp_path / "x")


def test_links_and_doubles_are_refused(tmp_path: Path) -> None:
    entry = FileEntry(path="a", sha256=digest.digest_bytes(b""), size=0)
    write_manifest(tmp_path / "b", entry, entry)
    (tmp_path / "b" / "a").write_bytes(b"")
    with pytest.raises(UserError, match="twice"):
        pack(tmp_path / "b", tmp_path / "x")
    write_manifest(tmp_path / "c", entry)
    (tmp_path / "c" / "a").symlink_to(tmp_path / "b" / "a")
    with pytest.raises(UserError, match="no regular file"):
        pack(tmp_path / "c", tmp_path / "x")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"schema": 1}', b'{"schema":"one"}'])
def test_manifests_must_be_canonical_and_make_sense(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(data)
    with pytest.raises(UserError, match=r"bundle\.json"):
        read_manifest(tmp_path)
