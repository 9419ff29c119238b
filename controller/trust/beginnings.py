"""The first version of every role of a new repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from controller.trust.roles import BUNDLE_PATHS, LIFETIMES, SIGNED_AT, Role


def first_versions(
    signers: Mapping[Role, CryptoSigner], now: float
) -> Iterator[tuple[Role, Metadata[Any]]]:
    """Signed metadata of every role, in the order to write it: the timestamp last.

    ``now`` is seconds since the epoch; roles but the root begin at that version.
    """
    version = max(1, int(now))
    expires = {role: LIFETIMES[role].expiry(now) for role in Role}
    listed = (Role.TARGETS, Role.COMPRESSOR)
    contents: Mapping[Role, Signed] = {
        Role.ROOT: _root(signers, now),
        Role.TARGETS: Targets(
            version=version,
            expires=expires[Role.TARGETS],
            delegations=_delegations(signers[Role.COMPRESSOR]),
        ),
        Role.COMPRESSOR: Targets(version=version, expires=expires[Role.COMPRESSOR]),
        Role.SNAPSHOT: Snapshot(
            version=version,
            expires=expires[Role.SNAPSHOT],
            meta={f"{role.value}.json": MetaFile(version=version) for role in listed},
        ),
        Role.TIMESTAMP: Timestamp(
            version=version,
            expires=expires[Role.TIMESTAMP],
            snapshot_meta=MetaFile(version=version),
            unrecognized_fields={SIGNED_AT: int(now)},
        ),
    }
    for role, content in contents.items():
        metadata: Metadata[Any] = Metadata(content)
        metadata.sign(signers[role])
        yield role, metadata


def _root(signers: Mapping[Role, CryptoSigner], now: float) -> Root:
    root = Root(version=1, expires=LIFETIMES[Role.ROOT].expiry(now), consistent_snapshot=True)
    for role in (Role.ROOT, Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP):
        root.add_key(signers[role].public_key, role.value)
    return root


def _delegations(compressor: CryptoSigner) -> Delegations:
    key = compressor.public_key
    role = DelegatedRole(
        name=Role.COMPRESSOR.value,
        keyids=[key.keyid],
        threshold=1,
        terminating=True,  # what it does not list below bundles/ is listed nowhere
        paths=list(BUNDLE_PATHS),
    )
    return Delegations(keys={key.keyid: key}, roles={role.name: role})
