"""The signed metadata: what becomes visible, who signs it, what survives."""

from __future__ import annotations

import datetime as dt
import shutil
import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from controller.errors import Conflict, TrustError
from controller.trust import files
from controller.trust.repository import MetadataRepository
from controller.trust.roles import SIGNED_AT
from fitment.core.bundle import ReleaseManifest

NOW = 1_780_000_000.0
DAY = 86400.0
TARGET = f"bundles/{'ab' * 32}.tar.xz"
RELEASE = ReleaseManifest(
    release="r1", model="m", version="1", slot="m", counter=1, variants={"x86": "sha256:ab"}
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> MetadataRepository:
    return MetadataRepository.init(tmp_path / "metadata", tmp_path / "offline", clock=clock)


def archive(tmp_path: Path, content: bytes = b"archive") -> Path:
    path = tmp_path / "a.tar.xz"
    path.write_bytes(content)
    return path


def read(repository: MetadataRepository, name: str) -> Metadata:  # type: ignore[type-arg]
    data = repository.read(name)
    assert data is not None
    return Metadata.from_bytes(data)


def newest(repository: MetadataRepository, role: str) -> Metadata:  # type: ignore[type-arg]
    """What a device gets to, from the timestamp on."""
    snapshot = read(
        repository,
        f"{read(repository, 'timestamp.json').signed.snapshot_meta.version}.snapshot.json",
    )
    if role == "snapshot":
        return snapshot
    return read(repository, f"{snapshot.signed.meta[f'{role}.json'].version}.{role}.json")


def test_many_bundles_become_visible_in_one_version(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    before = newest(repository, "compressor").signed.version
    targets = [f"bundles/{i:064x}.tar.xz" for i in range(20)]
    repository.add_bundles([(target, archive(tmp_path)) for target in targets])
    after = newest(repository, "compressor").signed
    assert (after.version, sorted(after.targets)) == (before + 1, targets)
    assert after.targets[targets[0]].length == len(b"archive")
    assert list(after.targets[targets[0]].hashes) == ["sha256"]


def test_the_compressor_signs_bundles_and_nothing_else(repository: MetadataRepository) -> None:
    delegations = newest(repository, "targets").signed.delegations
    role = delegations.roles["compressor"]
    assert role.terminating
    assert role.is_delegated_path(TARGET)
    assert not role.is_delegated_path("releases/r1.json")
    assert not role.is_delegated_path("bundles/a/b.tar.xz")


def test_adding_again_changes_nothing_and_other_content_is_refused(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    repository.add_bundles([(TARGET, archive(tmp_path))])
    version = newest(repository, "snapshot").signed.version
    repository.add_bundles([(TARGET, archive(tmp_path))])
    assert newest(repository, "snapshot").signed.version == version
    with pytest.raises(Conflict, match="never changed"):
        repository.add_bundles([(TARGET, archive(tmp_path, b"other"))])
    assert newest(repository, "snapshot").signed.version == version


@pytest.mark.parametrize("path", ["x", "bundles/x", "releases/r1.json", "../" + TARGET])
def test_only_bundle_paths_are_added(
    repository: MetadataRepository, tmp_path: Path, path: str
) -> None:
    with pytest.raises(TrustError, match="target path"):
        repository.add_bundles([(path, archive(tmp_path))])


def test_a_release_is_approved_with_the_offline_key(repository: MetadataRepository) -> None:
    assert repository.approve(RELEASE) == "releases/r1.json"
    target = newest(repository, "targets").signed.targets["releases/r1.json"]
    data = repository.read(f"releases/{target.hashes['sha256']}.r1.json")
    assert data is not None
    target.verify_length_and_hashes(data)
    assert repository.approve(RELEASE) == "releases/r1.json"  # again: nothing new


def test_without_the_offline_key_nothing_is_approved(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    (tmp_path / "offline").rename(tmp_path / "in-the-safe")
    version = newest(repository, "snapshot").signed.version
    with pytest.raises(TrustError, match="--offline-dir"):
        repository.approve(RELEASE)
    with pytest.raises(TrustError, match="none was given"):
        MetadataRepository(tmp_path / "metadata").approve(RELEASE)
    assert newest(repository, "snapshot").signed.version == version
    repository.add_bundles([(TARGET, archive(tmp_path))])  # fits go on without it


def test_a_release_id_cannot_be_a_path_or_change(repository: MetadataRepository) -> None:
    repository.approve(RELEASE)
    with pytest.raises(Conflict):
        repository.approve(
            ReleaseManifest(release="r1", model="m", version="2", slot="m", counter=2)
        )
    with pytest.raises(TrustError, match="release id"):
        repository.approve(
            ReleaseManifest(release="../r1", model="m", version="2", slot="m", counter=2)
        )


@pytest.mark.parametrize(
    "path",
    [
        "online/timestamp.key",
        "../offline/root.key",
        "root.json",
        "0.root.json",
        "1.root.json/",
        "/etc/passwd",
        "releases/../timestamp.json",
        "timestamp.json\n",
        "",
    ],
)
def test_only_known_names_are_served(repository: MetadataRepository, path: str) -> None:
    assert repository.read(path) is None


def test_the_root_is_served(repository: MetadataRepository) -> None:
    assert repository.read("1.root.json") == repository.root_bytes()
    assert repository.read("2.root.json") is None


def test_refresh_signs_what_ends_soon_and_only_that(
    repository: MetadataRepository, clock: Clock
) -> None:
    assert repository.refresh() == ()
    assert repository.refresh(NOW + 0.6 * DAY) == ("timestamp",)
    assert repository.refresh(NOW + 5 * DAY) == ("snapshot", "timestamp")
    clock.now = NOW + 25 * DAY
    assert repository.refresh() == ("compressor", "snapshot", "timestamp")
    stamp = read(repository, "timestamp.json").signed
    assert stamp.unrecognized_fields[SIGNED_AT] == int(clock.now)
    for role in ("snapshot", "compressor", "targets"):
        moment = dt.datetime.fromtimestamp(clock.now, tz=dt.timezone.utc)
        assert not newest(repository, role).signed.is_expired(moment)


def test_offline_roles_are_renewed_where_their_keys_are(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    later = NOW + 330 * DAY
    assert set(repository.refresh(later)) == {
        "root", "targets", "compressor", "snapshot", "timestamp",
    }  # fmt: skip
    second = repository.read("2.root.json")
    assert second == repository.root_bytes()
    Metadata.from_bytes(repository.read("1.root.json") or b"").verify_delegate(
        "root", Metadata.from_bytes(second)
    )
    shutil.rmtree(tmp_path / "offline")
    much_later = later + 330 * DAY
    assert set(repository.refresh(much_later)) == {"compressor", "snapshot", "timestamp"}
    notes = repository.notes(much_later)
    assert len(notes) == 2
    assert all("--offline-dir" in note for note in notes)


def test_versions_grow_over_restarts_and_over_a_restored_backup(
    repository: MetadataRepository, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "metadata"
    shutil.copytree(folder, tmp_path / "backup")
    clock.now += 3600
    for content in range(3):
        target = f"bundles/{content:064x}.tar.xz"
        repository.add_bundles([(target, archive(tmp_path))])
    seen = read(repository, "timestamp.json").signed.version
    reopened = MetadataRepository(folder, clock=clock)
    reopened.add_bundles([(TARGET, archive(tmp_path))])
    assert read(reopened, "timestamp.json").signed.version == seen + 1
    assert len(newest(reopened, "compressor").signed.targets) == 4

    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    clock.now += 3600
    restored = MetadataRepository(folder, clock=clock)
    restored.add_bundles([(TARGET, archive(tmp_path))])
    for role in ("compressor", "snapshot"):
        assert newest(restored, role).signed.version > seen
    assert read(restored, "timestamp.json").signed.version > seen + 1


def test_a_write_that_fails_half_way_is_as_if_never_begun(
    repository: MetadataRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = repository.read("timestamp.json")
    real = files.write_private

    def full_disk(path: Path, data: bytes) -> None:
        if path.name == "timestamp.json":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(files, "write_private", full_disk)
    with pytest.raises(OSError, match="No space"):
        repository.add_bundles([(TARGET, archive(tmp_path))])
    assert repository.read("timestamp.json") == before
    monkeypatch.setattr(files, "write_private", real)
    repository.add_bundles([(TARGET, archive(tmp_path))])
    assert list(newest(repository, "compressor").signed.targets) == [TARGET]


def test_old_versions_go_and_roots_stay(repository: MetadataRepository, tmp_path: Path) -> None:
    for content in range(30):
        repository.add_bundles([(f"bundles/{content:064x}.tar.xz", archive(tmp_path))])
    assert len(list((tmp_path / "metadata").glob("*.compressor.json"))) == 16
    assert repository.read("1.root.json") is not None
    assert len(newest(repository, "compressor").signed.targets) == 30


def test_keys_are_private_and_never_replaced(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    assert repository.root_bytes()
    for folder in (tmp_path / "offline", tmp_path / "metadata" / "online"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with pytest.raises(TrustError, match="not replaced"):
        MetadataRepository.init(tmp_path / "metadata", tmp_path / "offline")
    with pytest.raises(TrustError, match="not replaced"):
        MetadataRepository.init(tmp_path / "other", tmp_path / "offline")


def test_a_missing_or_damaged_repository_is_said(
    repository: MetadataRepository, tmp_path: Path
) -> None:
    assert repository.root_bytes()
    (tmp_path / "metadata" / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(TrustError, match="damaged"):
        MetadataRepository(tmp_path / "metadata")
    with pytest.raises(TrustError, match="missing"):
        MetadataRepository(tmp_path / "nowhere")
