"""Orders and records for tests of the domain."""

from __future__ import annotations

from dataclasses import replace

from agent.domain.record import DeploymentRecord
from fitment.core import digest
from fitment.core.deployment import Assignment, BundleRef, DeploymentState, SignedPayload

SIGNED = SignedPayload(payload=b"{}", key_id="k", signature=b"s")


def bundle(name: str = "v1") -> BundleRef:
    return BundleRef(
        variant=digest.digest_bytes(name.encode()), name=name,
        archive=digest.digest_bytes(b"a" + name.encode()), archive_bytes=10,
        target=f"bundles/{name}.tar.xz",
    )  # fmt: skip


def assignment(deployment: str = "d-1", **changes: object) -> Assignment:
    base = Assignment(
        device="dev-1", deployment=deployment, rollout="r", release="rel",
        release_target="releases/rel.json", slot="digits", counter=1, bundle=bundle(),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def record(state: DeploymentState = DeploymentState.IDLE, **changes: object) -> DeploymentRecord:
    base = DeploymentRecord(order=SIGNED, assignment=assignment(), state=state)
    return replace(base, **changes)  # type: ignore[arg-type]
