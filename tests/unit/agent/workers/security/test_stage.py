"""Unpacking: what a signed digest does not cover never touches the disk outside the folder."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.jobs import StageJob
from agent.workers import stage
from agent.workers.child import JobError
from fitment.core import digest
from fitment.core.bundle import BundleManifest, FileEntry

CONTENT = b"weights" * 1000
GOOD = FileEntry(path="golden/in.npy", sha256=digest.digest_bytes(CONTENT), size=len(CONTENT))


def make_archive(
    path: Path,
    *,
    entries: tuple[FileEntry, ...] = (GOOD,),
    change: Callable[[tarfile.TarInfo], None] | None = None,
    members: dict[str, bytes] | None = None,
) -> str:
    """Write a transport file, as an attacker with the compressor's key might; its variant."""
    manifest = digest.canonical(BundleManifest(name="int8", runtime="onnx", files=entries))
    with tarfile.open(path, mode="w:xz", preset=1) as archive:
        for name, data in {"bundle.json": manifest, **(members or {GOOD.path: CONTENT})}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change and name != "bundle.json":
                change(info)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return digest.digest_bytes(manifest)


def job(tmp_path: Path, variant: str, runtimes: tuple[str, ...] = ()) -> StageJob:
    return StageJob(
        result="",
        archive_path=str(tmp_path / "a.tar.xz"),
        folder=str(tmp_path / "slot" / "b"),
        variant=variant,
        runtimes=runtimes,
    )


def refused(tmp_path: Path, variant: str, runtimes: tuple[str, ...] = ()) -> JobError:
    """The failure; nothing of the folder may be left, and nothing beside it."""
    with pytest.raises(JobError) as caught:
        stage.handle(job(tmp_path, variant, runtimes))
    assert not (tmp_path / "slot" / "b").exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"a.tar.xz", "slot"}
    return caught.value


def test_a_clean_bundle_is_unpacked_into_a_new_folder(tmp_path: Path) -> None:
    variant = make_archive(tmp_path / "a.tar.xz")
    old = tmp_path / "slot" / "b"
    old.mkdir(parents=True)
    (old / "left over").write_bytes(b"x")
    result = stage.handle(job(tmp_path, variant, ("litert", "onnx")))
    assert (result.variant, result.name, result.runtime) == (variant, "int8", "onnx")
    files = {p.relative_to(old).as_posix(): p.stat().st_size for p in old.rglob("*.*")}
    assert set(files) == {"bundle.json", "golden/in.npy"}
    assert result.bytes == sum(files.values())
    assert (old / GOOD.path).read_bytes() == CONTENT


def test_another_variant_is_refused(tmp_path: Path) -> None:
    make_archive(tmp_path / "a.tar.xz")
    error = refused(tmp_path, digest.digest_bytes(b"another"))
    assert (error.code, error.permanent) == ("digest", True)


def _link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def _hard_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "bundle.json", 0


def _device(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.CHRTYPE, 0


def _folder(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.DIRTYPE, 0


@pytest.mark.parametrize("change", [_link, _hard_link, _device, _folder])
def test_only_regular_files(tmp_path: Path, change: Callable[[tarfile.TarInfo], None]) -> None:
    variant = make_archive(tmp_path / "a.tar.xz", change=change)
    error = refused(tmp_path, variant)
    assert (error.code, error.permanent) == ("archive", True)
    assert "no regular file" in str(error)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "./evil", "a\\b"])
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    entry = FileEntry(path=name, sha256=GOOD.sha256, size=GOOD.size)
    variant = make_archive(tmp_path / "a.tar.xz", entries=(entry,), members={name: CONTENT})
    assert "relative path" in str(refused(tmp_path, variant))
    variant = make_archive(tmp_path / "a.tar.xz", members={name: CONTENT})  # not even listed
    assert "relative path" in str(refused(tmp_path, variant))


def test_every_file_is_what_the_manifest_says(tmp_path: Path) -> None:
    for data, code in ((CONTENT[:-1] + b"x", "digest"), (CONTENT[:-1], "digest"),
                       (CONTENT + b"x", "digest")):  # fmt: skip
        variant = make_archive(tmp_path / "a.tar.xz", members={GOOD.path: data})
        assert refused(tmp_path, variant).code == code


def test_all_and_only_what_is_listed(tmp_path: Path) -> None:
    variant = make_archive(
        tmp_path / "a.tar.xz", members={GOOD.path: CONTENT, "extra": b"not listed"}
    )
    assert "not listed" in str(refused(tmp_path, variant))
    missing = FileEntry(path="missing", sha256=GOOD.sha256, size=1)
    variant = make_archive(tmp_path / "a.tar.xz", entries=(GOOD, missing))
    assert "lacks missing" in str(refused(tmp_path, variant))
    variant = make_archive(tmp_path / "a.tar.xz", entries=(GOOD, GOOD))
    assert "twice" in str(refused(tmp_path, variant))


def test_sizes_are_bounded_before_anything_is_written(tmp_path: Path) -> None:
    huge = FileEntry(path="huge", sha256=GOOD.sha256, size=1 << 40)
    variant = make_archive(tmp_path / "a.tar.xz", entries=(huge,))
    assert "unpacks to more" in str(refused(tmp_path, variant))


def test_a_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_MAX_TOTAL_BYTES", 1 << 20)
    monkeypatch.setattr(stage, "_MAX_MANIFEST_BYTES", 0)
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(_tar_header(1 << 30) + bytes(1 << 23)))
    assert "unpacks to more" in str(refused(tmp_path, digest.digest_bytes(b"")))


def _tar_header(size: int) -> bytes:
    info = tarfile.TarInfo("zeros")
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("data", [b"", b"not xz at all", lzma.compress(b"no tar" * 500)])
def test_damaged_archives(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar.xz").write_bytes(data)
    assert refused(tmp_path, digest.digest_bytes(b"")).code == "archive"


def test_truncated_archives(tmp_path: Path) -> None:
    variant = make_archive(tmp_path / "a.tar.xz")
    data = (tmp_path / "a.tar.xz").read_bytes()
    (tmp_path / "a.tar.xz").write_bytes(data[: len(data) // 2])
    assert refused(tmp_path, variant).code == "archive"


def test_a_missing_runtime_is_named_with_the_mend(tmp_path: Path) -> None:
    variant = make_archive(tmp_path / "a.tar.xz")
    error = refused(tmp_path, variant, ("litert",))
    assert (error.code, error.permanent) == ("runtime_missing", True)
    assert "fitment[onnx]" in str(error)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = make_archive(tmp_path / "a.tar.xz")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "_extract", full)
    error = refused(tmp_path, variant)
    assert (error.code, error.permanent) == ("disk_full", False)
