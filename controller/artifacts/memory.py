"""The in-memory twin of `controller.artifacts.blobs.FolderBlobs`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from controller.artifacts.blobs import check_range, hex_of, missing
from fitment.core import digest as digests


class MemoryBlobs:
    """Blobs in a dictionary, for tests and simulations."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put_file(self, path: Path) -> str:
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, data: bytes) -> str:
        digest = digests.digest_bytes(data)
        self._blobs[digest] = bytes(data)
        return digest

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self._get(digest))

    def read(self, digest: str, offset: int, size: int) -> bytes:
        check_range(offset, size)
        return self._get(digest)[offset : offset + size]

    def size(self, digest: str) -> int:
        return len(self._get(digest))

    def has(self, digest: str) -> bool:
        hex_of(digest)
        return digest in self._blobs

    def _get(self, digest: str) -> bytes:
        hex_of(digest)
        try:
            return self._blobs[digest]
        except KeyError:
            raise missing(digest) from None
