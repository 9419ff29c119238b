"""The catalogue: an error's code to what callers see, on gRPC and over REST.

Public texts are either the error's own message (written for the caller) or a fixed sentence
(where the message could tell a stranger too much).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from controller.errors import FitmentError, Temporary


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one code becomes."""

    grpc: grpc.StatusCode
    http: int
    title: str
    text: str = ""  # fixed public text; empty: the error's own message


CATALOGUE: Mapping[str, Entry] = {
    "internal": Entry(
        grpc=grpc.StatusCode.INTERNAL, http=500, title="Internal error",
        text="the controller failed; its log says why",
    ),
    "invalid": Entry(grpc=grpc.StatusCode.INVALID_ARGUMENT, http=400, title="Invalid request"),
    "not_found": Entry(grpc=grpc.StatusCode.NOT_FOUND, http=404, title="Not found"),
    "conflict": Entry(grpc=grpc.StatusCode.FAILED_PRECONDITION, http=409, title="Conflict"),
    "workload": Entry(
        grpc=grpc.StatusCode.INVALID_ARGUMENT, http=422, title="Unusable workload"
    ),
    "untrusted": Entry(grpc=grpc.StatusCode.PERMISSION_DENIED, http=403, title="Not trusted"),
    "forbidden": Entry(grpc=grpc.StatusCode.PERMISSION_DENIED, http=403, title="Role needed"),
    "busy": Entry(grpc=grpc.StatusCode.RESOURCE_EXHAUSTED, http=503, title="Try again later"),
    "disk_full": Entry(
        grpc=grpc.StatusCode.RESOURCE_EXHAUSTED, http=507, title="Disk full"
    ),
    "lease_lost": Entry(
        grpc=grpc.StatusCode.UNAVAILABLE, http=503, title="Another controller acts"
    ),
    "fit": Entry(grpc=grpc.StatusCode.FAILED_PRECONDITION, http=422, title="No fit"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """An error as the caller sees it."""

    code: str
    entry: Entry
    text: str
    retry_after_s: float | None


def public(error: FitmentError) -> Public:
    """What a caller may see of ``error``; a code that is not listed falls back to its parent's."""
    codes = (getattr(kind, "code", "") for kind in type(error).__mro__)
    code = next((code for code in codes if code in CATALOGUE), "internal")
    entry = CATALOGUE[code]
    return Public(
        code=code,
        entry=entry,
        text=entry.text or str(error),
        retry_after_s=error.retry_after_s if isinstance(error, Temporary) else None,
    )
