"""The signed metadata (TUF 1.0) that says which bundles and releases are ours.

Files on disk are what devices read: ``N.<role>.json`` and ``timestamp.json`` (consistent
snapshots), and release manifests as ``releases/<sha256>.<id>.json``. A change becomes visible
when ``timestamp.json`` is replaced, the last write of every operation; a crash before it
leaves the former state.

Versions of all roles but the root are at least the time in seconds, so that a repository
restored from a backup goes on above every version that a device may have seen.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from controller.domain import catching_up
from controller.errors import Conflict, TrustError
from controller.trust import files
from controller.trust.beginnings import first_versions
from controller.trust.roles import (
    LIFETIMES,
    OFFLINE,
    ONLINE,
    SIGNED_AT,
    Role,
    create_keys,
    has_key,
    load_offline,
    load_signer,
)
from fitment.core import digest
from fitment.core.bundle import ReleaseManifest

_METADATA_NAME = re.compile(
    r"(timestamp|[1-9][0-9]{0,18}\.(root|targets|compressor|snapshot))\.json\Z", re.ASCII
)
_RELEASE_NAME = re.compile(r"releases/[0-9a-f]{64}\.[A-Za-z0-9_-]{1,128}\.json\Z")
_RELEASE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_BUNDLE_NAME = re.compile(r"bundles/[0-9a-f]{64}\.tar\.xz\Z")
MOVING = tuple(role for role in Role if role is not Role.ROOT)
"""Roles whose versions need no order but to grow."""
_KEPT_VERSIONS = 16  # of each role, for devices that are in the middle of an update

Clock = Callable[[], float]


class MetadataRepository:
    """One repository in one folder. Safe to use from several threads of one process."""

    def __init__(
        self, folder: Path, offline_folder: Path | None = None, *, clock: Clock = time.time
    ) -> None:
        self._folder = folder
        self._offline_folder = offline_folder
        self._clock = clock
        self._lock = threading.Lock()
        self._signers = {role: load_signer(folder / "online", role) for role in ONLINE}
        self._roles = self._load_all()
        self.before_signing: Callable[[], None] = lambda: None
        """May refuse a new version, by raising: another process may write this folder by now."""
        self._seen: dict[Role, int] = {}  # versions that devices have trusted

    @classmethod
    def init(
        cls, folder: Path, offline_folder: Path, *, clock: Clock = time.time
    ) -> MetadataRepository:
        """Make keys and the first version of every role.

        Raises:
            TrustError: there is a repository or a key already.
        """
        if (folder / "timestamp.json").exists():
            raise TrustError(f"there is signed metadata in {folder}; it is not replaced")
        files.make_private_folder(folder)
        files.make_private_folder(folder / "releases")
        signers = create_keys(offline_folder, OFFLINE) | create_keys(folder / "online", ONLINE)
        for role, metadata in first_versions(signers, clock()):
            files.write_private(folder / _file_name(role, metadata), metadata.to_bytes())
        return cls(folder, offline_folder, clock=clock)

    def root_bytes(self) -> bytes:
        """The newest root, which devices pin when they are enrolled."""
        return (self._folder / _newest(self._folder, Role.ROOT)).read_bytes()

    def read(self, path: str) -> bytes | None:
        """One file that devices may have, or None; any other name is not there."""
        if not (_METADATA_NAME.match(path) or _RELEASE_NAME.match(path)):
            return None
        try:
            return (self._folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def add_bundles(self, bundles: Iterable[tuple[str, Path]]) -> None:
        """List bundles (target path, transport file) as made by us, all in one new version.

        Raises:
            TrustError: a path is not ``bundles/<64 hex digits>.tar.xz``.
            Conflict: a path is listed with other content.
        """
        found = {path: _bundle_target(path, archive) for path, archive in bundles}
        with self._changing():
            listed = self._targets(Role.COMPRESSOR).targets
            new = {path: target for path, target in found.items() if _is_new(listed, target)}
            if new:
                listed.update(new)
                self._publish(Role.COMPRESSOR, self._signers[Role.COMPRESSOR])

    def archive_of(self, variant: str) -> str | None:
        """Digest of the transport file that is listed for a variant, or None."""
        path = f"bundles/{digest.hex_of(variant)}.tar.xz"
        listed = self._targets(Role.COMPRESSOR).targets.get(path)
        return f"sha256:{listed.hashes['sha256']}" if listed is not None else None

    def approve(self, release: ReleaseManifest) -> str:
        """Sign a release with the offline key and return its target path. Idempotent.

        Raises:
            TrustError: the offline key is not here, or the id cannot be a file name.
            Conflict: a release of this id was approved with other content.
        """
        if not _RELEASE_ID.match(release.release):
            raise TrustError(f"not a release id: {release.release!r} (use A-Z a-z 0-9 _ -)")
        data = digest.canonical(release)
        target = TargetFile.from_data(f"releases/{release.release}.json", data, ["sha256"])
        with self._changing():
            listed = self._targets(Role.TARGETS).targets
            if _is_new(listed, target):
                signer = load_offline(self._offline_folder, Role.TARGETS)
                name = f"releases/{target.hashes['sha256']}.{release.release}.json"
                files.write_private(self._folder / name, data)
                listed[target.path] = target
                self._publish(Role.TARGETS, signer)
        return target.path

    def refresh(self, now: float | None = None) -> tuple[str, ...]:
        """Sign again what ends soon; returns the names of the roles that were signed.

        Call it at start and every hour. The offline roles are renewed when their folder is
        there; otherwise `notes` says that they wait.
        """
        moment = self._clock() if now is None else now
        with self._changing():
            due = [role for role in Role if self._is_due(role, moment) and self.can_sign(role)]
            if Role.TARGETS in due or Role.COMPRESSOR in due:
                due = [*due, Role.SNAPSHOT]
            if Role.SNAPSHOT in due:
                due = [*due, Role.TIMESTAMP]
            signing = [role for role in Role if role in due]
            for role in signing:
                self._sign(role, self._signer(role), moment)
        return tuple(role.value for role in signing)

    def move_past(self, seen: Mapping[str, int]) -> tuple[str, ...]:
        """Go on above versions that a device has trusted; returns the roles that were signed.

        This folder may have been restored from a backup, and a device takes no lower version.
        What cannot be (`catching_up.LEAP_S`) is not believed. The root is left alone: it counts
        by one, and a device with a later one of ours goes on with that.
        """
        moment = int(self._clock())
        with self._lock:
            for role in MOVING:
                known = self._roles[role].signed.version
                said, floor = seen.get(role.value, 0), max(known, moment)
                if known < said <= floor + catching_up.LEAP_S:
                    self._seen[role] = max(said, self._seen.get(role, 0))
            behind = any(self._is_behind(role) and self.can_sign(role) for role in MOVING)
        return self.refresh() if behind else ()

    def notes(self, now: float | None = None) -> tuple[str, ...]:
        """What an operator should know: offline roles that wait for their key."""
        moment = self._clock() if now is None else now
        waiting = [r for r in OFFLINE if self._is_due(r, moment) and not self.can_sign(r)]
        what = {
            role: "has a version below one that devices have trusted, so they refuse it"
            if self._is_behind(role)
            else f"ends on {self._roles[role].signed.expires:%F}"
            for role in waiting
        }
        return tuple(
            f"the signature of '{role.value}' {why}: "
            "start the controller once with --offline-dir where the offline keys are"
            for role, why in what.items()
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One writer at a time; what fails half-way is forgotten, as the disk has it."""
        with self._lock:
            done = False
            try:
                yield
                done = True
            finally:
                if not done:
                    self._roles = self._load_all()

    def _publish(self, role: Role, signer: CryptoSigner) -> None:
        moment = self._clock()
        self._sign(role, signer, moment)
        self._sign(Role.SNAPSHOT, self._signers[Role.SNAPSHOT], moment)
        self._sign(Role.TIMESTAMP, self._signers[Role.TIMESTAMP], moment)

    def _sign(self, role: Role, signer: CryptoSigner, moment: float) -> None:
        metadata = self._roles[role]
        if role is Role.SNAPSHOT:
            self._fill_snapshot()
        if role is Role.TIMESTAMP:
            self._fill_timestamp(moment)
        version = metadata.signed.version + 1
        # Roots must follow each other without a gap; all others only have to grow.
        above = max(int(moment), self._seen.get(role, 0) + 1)
        metadata.signed.version = version if role is Role.ROOT else max(version, above)
        metadata.signed.expires = LIFETIMES[role].expiry(moment)
        metadata.sign(signer)
        self.before_signing()
        files.write_private(self._folder / _file_name(role, metadata), metadata.to_bytes())
        if role is not Role.ROOT:
            self._prune(role)

    def _fill_snapshot(self) -> None:
        snapshot = cast("Snapshot", self._roles[Role.SNAPSHOT].signed)
        for role in (Role.TARGETS, Role.COMPRESSOR):
            version = self._roles[role].signed.version
            snapshot.meta[f"{role.value}.json"] = MetaFile(version=version)

    def _fill_timestamp(self, moment: float) -> None:
        timestamp = cast("Timestamp", self._roles[Role.TIMESTAMP].signed)
        timestamp.snapshot_meta = MetaFile(version=self._roles[Role.SNAPSHOT].signed.version)
        timestamp.unrecognized_fields[SIGNED_AT] = int(moment)

    def _prune(self, role: Role) -> None:
        for version in _versions(self._folder, role)[:-_KEPT_VERSIONS]:
            (self._folder / f"{version}.{role.value}.json").unlink(missing_ok=True)

    def _targets(self, role: Role) -> Targets:
        return cast("Targets", self._roles[role].signed)

    def _signer(self, role: Role) -> CryptoSigner:
        return self._signers.get(role) or load_offline(self._offline_folder, role)

    def can_sign(self, role: Role) -> bool:
        """Whether the key of a role is at hand."""
        return role in ONLINE or has_key(self._offline_folder, role)

    def _is_due(self, role: Role, moment: float) -> bool:
        expires = self._roles[role].signed.expires
        return self._is_behind(role) or LIFETIMES[role].is_due(expires, moment)

    def _is_behind(self, role: Role) -> bool:
        return bool(self._roles[role].signed.version <= self._seen.get(role, 0))

    def _load_all(self) -> dict[Role, Metadata[Any]]:
        """The current version of every role, found from the timestamp as a device does."""
        roles = {
            Role.ROOT: self._load(_newest(self._folder, Role.ROOT)),
            Role.TIMESTAMP: self._load("timestamp.json"),
        }
        version = roles[Role.TIMESTAMP].signed.snapshot_meta.version
        roles[Role.SNAPSHOT] = self._load(f"{version}.snapshot.json")
        for role in (Role.TARGETS, Role.COMPRESSOR):
            version = roles[Role.SNAPSHOT].signed.meta[f"{role.value}.json"].version
            roles[role] = self._load(f"{version}.{role.value}.json")
        return roles

    def _load(self, name: str) -> Metadata[Any]:
        data = files.read_required(self._folder / name, f"the signed metadata ({name})")
        try:
            return Metadata.from_bytes(data)
        except RepositoryError as error:
            raise TrustError(
                f"the signed metadata is damaged: {self._folder / name}: {error}; "
                "restore the trust folder from a backup"
            ) from error


def _bundle_target(path: str, archive: Path) -> TargetFile:
    if not _BUNDLE_NAME.match(path):
        raise TrustError(f"not a bundle's target path: {path!r} (bundles/<hex>.tar.xz)")
    return TargetFile.from_file(path, str(archive), ["sha256"])


def _is_new(listed: dict[str, TargetFile], target: TargetFile) -> bool:
    known = listed.get(target.path)
    if known is not None and known != target:
        raise Conflict(
            f"{target.path} is signed with other content; what was signed is never changed"
        )
    return known is None


def _file_name(role: Role, metadata: Metadata[Any]) -> str:
    if role is Role.TIMESTAMP:
        return "timestamp.json"
    return f"{metadata.signed.version}.{role.value}.json"


def _versions(folder: Path, role: Role) -> list[int]:
    found = (path.name.split(".")[0] for path in folder.glob(f"*.{role.value}.json"))
    return sorted(int(version) for version in found if version.isdecimal())


def _newest(folder: Path, role: Role) -> str:
    versions = _versions(folder, role)
    if not versions:
        raise TrustError(
            f"there is no signed metadata in {folder}: restore the trust folder from a backup"
        )
    return f"{versions[-1]}.{role.value}.json"
