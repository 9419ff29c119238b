"""A model file as a device runs it."""

from __future__ import annotations

from dataclasses import dataclass

from fitment.core import digest
from fitment.core.patch import InputCorrection


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningModel:
    """A model file as one slot of one device runs it."""

    device: str
    slot: str
    variant: str  # digest
    file_name: str  # of the variant and its format, "int8-u8s8.onnx"
    calibration: str  # overlay id, empty when pristine
    data: bytes
    input: InputCorrection | None = None  # done to what is fed, before the file

    @property
    def sha256(self) -> str:
        """Of the file; that of a pristine one is the bundle's own entry."""
        return digest.digest_bytes(self.data)
