"""Patch manifest: where the numbers that calibration may change lie in a runtime file.

The controller finds the byte offsets, the agent writes there; neither onnx nor torch is
needed on the device. The pristine file is never touched: what runs is pristine plus overlay.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from fitment.core import digest, plain
from fitment.core.histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``count`` little-endian values of one type at one offset of the runtime file."""

    offset: int
    dtype: str  # numpy name: "float32", "int32", "uint8"
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StemPatch:
    """The first layer ``y = W x + b`` of a quantized network, and its reference moments.

    ``probe`` is a small fp32 graph from the model's input to the pre-activations of that layer.
    Moments are per output channel, over the reference inputs.
    """

    probe: str
    input_scale: Place
    input_zero_point: Place
    weight_scale: Place
    bias: Place
    bias_scale: Place
    mean: tuple[float, ...]
    variance: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchManifest:
    """``calibration.json`` of a bundle."""

    artifact_sha256: str
    input_reference: Histogram
    stem: StemPatch | None = None
    drift_band: float = 0.02  # largest drift seen between halves of the reference inputs
    ranges: tuple[RangePlace, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class RangePlace:
    """Scale and zero point of one activation tensor, for range calibration."""

    tensor: str
    scale: Place
    zero_point: Place
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """Bytes to write over the pristine file; ``id`` is the digest of the writes."""

    id: str
    artifact_sha256: str
    writes: tuple[Write, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One run of bytes at one offset."""

    offset: int
    data: bytes


def parse_overlay(data: bytes) -> Overlay:
    """The overlay of its canonical JSON.

    Raises:
        ValueError: damaged, or its writes are not what its id says.
    """
    overlay = plain.from_plain(Overlay, json.loads(data))
    if digest.digest_of(list(overlay.writes)) != overlay.id:
        raise ValueError("the writes do not have the digest that its id names")
    return overlay


def patched(artifact: bytes, overlay: Overlay) -> bytes:
    """What runs: the pristine file's bytes with the overlay written over them.

    Raises:
        ValueError: it was made for another file, or writes outside this one.
    """
    found = digest.digest_bytes(artifact)
    if found != overlay.artifact_sha256:
        raise ValueError(
            f"the overlay was made for {digest.short(overlay.artifact_sha256)}, "
            f"the file is {digest.short(found)}: calibrate again"
        )
    changed = bytearray(artifact)
    for write in overlay.writes:
        end = write.offset + len(write.data)
        if write.offset < 0 or end > len(changed):
            raise ValueError(f"a write of {len(write.data)} bytes at {write.offset} is outside")
        changed[write.offset : end] = write.data
    return bytes(changed)
