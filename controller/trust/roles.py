"""The roles of the signed metadata: who signs what, for how long, with which key.

- root, offline: which keys speak for the other roles
- targets, offline: approved releases; delegates ``bundles/*`` to the compressor
- compressor, online: bundles that a fit produced
- snapshot, online: which versions of the above belong together
- timestamp, online: which snapshot is the newest
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from controller.errors import TrustError
from controller.trust import director, files


class Role(enum.Enum):
    """A role of the repository, by its name in the metadata."""

    ROOT = "root"  # the keys
    TARGETS = "targets"  # approved releases
    COMPRESSOR = "compressor"  # bundles
    SNAPSHOT = "snapshot"  # consistent set of versions
    TIMESTAMP = "timestamp"  # freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long a signature counts, and how long before its end it is made anew."""

    days: float
    renew_days: float

    def expiry(self, now: float) -> dt.datetime:
        """When a signature made ``now`` (seconds since the epoch) ends; whole seconds, UTC."""
        return dt.datetime.fromtimestamp(int(now + self.days * 86400), tz=dt.timezone.utc)

    def is_due(self, expires: dt.datetime, now: float) -> bool:
        """Whether it is time to sign again."""
        return expires.timestamp() - now < self.renew_days * 86400


LIFETIMES: Mapping[Role, Lifetime] = {
    # Signed by a person with the offline keys: yearly, with two months to find that person.
    Role.ROOT: Lifetime(days=365, renew_days=60),
    # Offline too, but touched by every approval; a quarter bounds how long a stolen copy of
    # old approvals can be replayed to a device that was never online.
    Role.TARGETS: Lifetime(days=90, renew_days=30),
    # Online and touched by every fit; a quiet month is renewed without anybody.
    Role.COMPRESSOR: Lifetime(days=30, renew_days=10),
    # Online; a week survives a long weekend of a controller that is switched off.
    Role.SNAPSHOT: Lifetime(days=7, renew_days=3),
    # Online; the bound on how long an attacker can hide a newer state from a device.
    Role.TIMESTAMP: Lifetime(days=1, renew_days=0.5),
}

OFFLINE = (Role.ROOT, Role.TARGETS)
ONLINE = (Role.COMPRESSOR, Role.SNAPSHOT, Role.TIMESTAMP)
BUNDLE_PATHS = ("bundles/*",)
"""All that the compressor may sign for."""
SIGNED_AT = "x-fitment-signed-unix"
"""Extra field of the timestamp: when it was signed, for the devices' floor of trusted time."""


def create_keys(folder: Path, roles: tuple[Role, ...]) -> dict[Role, CryptoSigner]:
    """Make an Ed25519 key for each role as ``<role>.key`` in a private folder.

    Raises:
        TrustError: one of them is there already.
    """
    files.make_private_folder(folder)
    for role in roles:
        path = _key_path(folder, role)
        if path.exists():
            raise TrustError(f"{path} is there already and is not replaced; choose an empty folder")
        files.write_private(path, director.private_pem(Ed25519PrivateKey.generate()))
    return {role: load_signer(folder, role) for role in roles}


def load_signer(folder: Path, role: Role) -> CryptoSigner:
    """The signer of one role.

    Raises:
        TrustError: the key is missing or of another kind.
    """
    key = director.load_ed25519(_key_path(folder, role), f"the {role.value} key")
    return CryptoSigner(key)


def load_offline(folder: Path | None, role: Role) -> CryptoSigner:
    """The signer of an offline role.

    Raises:
        TrustError: the offline folder is not given or not there; says what to do.
    """
    if folder is None or not has_key(folder, role):
        where = "none was given" if folder is None else f"{folder} does not hold it now"
        raise TrustError(
            f"this needs the offline {role.value} key, and {where}: mount the medium that holds "
            "the keys and name its folder as the controller's offline folder (--offline-dir)"
        )
    return load_signer(folder, role)


def has_key(folder: Path | None, role: Role) -> bool:
    """Whether the role's key is in ``folder``, which may be unmounted or not given."""
    return folder is not None and _key_path(folder, role).exists()


def _key_path(folder: Path, role: Role) -> Path:
    return folder / f"{role.value}.key"
