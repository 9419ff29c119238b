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
class Texture:
    """How neighbouring values differ: what noise and blur change, and no gain or offset does.

    Neighbours are those in rows and in columns of images, else those along the last axis.
    """

    roughness: float  # mean squared difference over twice the variance (von Neumann's ratio)
    quiet: float  # a quarter of the absolute differences are at most this, in the input's units


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far reference inputs differ from one another: 2 to 98 % of them lie between these.

    Of each input the mean, the deviation, the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95, and the
    last less the first of these.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchManifest:
    """``calibration.json`` of a bundle.

    Without a ``stem`` nothing in the file may be changed; the inputs may be corrected all the same.
    """

    artifact_sha256: str
    input_reference: Histogram
    stem: StemPatch | None = None
    drift_band: float = 0.02  # largest drift seen between halves of the reference inputs
    ranges: tuple[RangePlace, ...] = field(default=())
    texture: Texture | None = None  # of the reference inputs
    spread: Spread | None = None  # of the reference inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RangePlace:
    """Scale and zero point of one activation tensor, for range calibration."""

    tensor: str
    scale: Place
    zero_point: Place
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCorrection:
    """What is done to the values of one input before the model sees them.

    It undoes a sensor ``x = offset + gain * tone(r)`` with ``tone(r) = low + span *
    ((r - low) / span) ** exponent``, ``span = high - low`` of the reference inputs:

        r = (x - offset) / gain                                            exponent 1
        r = low + span * max(0, ((x - offset) / gain - low) / span) ** (1 / exponent)

    Computed in float32 as ``a x + b``, then the power, then ``span r + low``, with ``a`` and
    ``b`` taken in float64 and rounded once.
    """

    tensor: str  # the input's name in the runtime file
    gain: float  # positive
    offset: float
    exponent: float = 1.0
    low: float = 0.0
    high: float = 1.0

    @property
    def slope(self) -> float:
        """``a``: of the straight part."""
        return 1.0 / (self.gain * self._unit)

    @property
    def intercept(self) -> float:
        """``b``: of the straight part."""
        black = self.low if self.exponent != 1.0 else 0.0
        return (-self.offset / self.gain - black) / self._unit

    @property
    def _unit(self) -> float:
        return self.high - self.low if self.exponent != 1.0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What calibration changed, under an ``id`` that is the digest of just that.

    ``writes`` go over the pristine file's bytes; ``input`` is done to what is fed, and leaves the
    file as it is.
    """

    id: str
    artifact_sha256: str
    writes: tuple[Write, ...]
    input: InputCorrection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One run of bytes at one offset."""

    offset: int
    data: bytes


def overlay_id(writes: tuple[Write, ...], correction: InputCorrection | None = None) -> str:
    """The digest that names what calibration changed.

    Of the writes alone where nothing is done to the input, as it was before that could be: an
    agent that knows nothing of it refuses such an overlay, and does not run it half.
    """
    if correction is None:
        return digest.digest_of(list(writes))
    return digest.digest_of({"input": correction, "writes": list(writes)})


def parse_overlay(data: bytes) -> Overlay:
    """The overlay of its canonical JSON.

    Raises:
        ValueError: damaged, or its writes are not what its id says.
    """
    overlay = plain.from_plain(Overlay, json.loads(data))
    if overlay_id(overlay.writes, overlay.input) != overlay.id:
        raise ValueError("its changes do not have the digest that its id names")
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
