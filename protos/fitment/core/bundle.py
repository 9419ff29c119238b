"""The bundle: what is shipped, signed and installed as one.

A bundle is a folder with ``bundle.json`` (canonical JSON of `BundleManifest`) and the files it
lists. The variant digest is the digest of that manifest, so that it covers every file. The
transport form is a deterministic ``tar`` compressed with ``xz``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MANIFEST_NAME = "bundle.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of the runtime file."""

    name: str
    dtype: str  # numpy name: "float32", "int8"
    shape: tuple[int, ...]  # -1 where any size goes
    scale: float | None = None  # set when the tensor is quantized: real = scale*(q - zero_point)
    zero_point: int | None = None


ONNX_DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
"""Types of tensors as onnxruntime spells them -> as numpy does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IoSpec:
    """What an application must feed and will get."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: str = "NCHW"  # of image inputs; free text otherwise
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a bundle."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSpec:
    """Inputs with known answers: ``inputs.npy`` and ``outputs.npy``, the same first axis.

    The model answers correctly when every output is within ``tolerance`` (absolute, in the
    units of the output) of the variant's own recorded one and the top-1 is the same.
    ``reference`` holds fp32 outputs of the same inputs, for agreement and SQNR.
    """

    inputs: str
    outputs: str
    reference: str
    tolerance: float
    inputs_scale: float = 1.0  # inputs may be stored as uint8: real = scale * stored


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSpec:
    """When an application should raise an alarm: a threshold refitted for this variant.

    ``score`` says what is compared with it. "log_odds": of the class scores x of an input,
    x[index] - log(sum of exp(x) of all others). "value": the one output itself. An alarm is a
    score of ``threshold`` or more.
    """

    positive: str  # name of the class
    index: int  # its place among the outputs
    score: str
    threshold: float
    false_positive_rate_max: float  # what it was fitted to, on held-out inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """``bundle.json``."""

    schema: int = 1
    kind: str = "model"  # "model" or "probe"
    name: str = ""  # variant name; begins with its precision
    model: str = ""
    version: str = ""
    format: str = "onnx"  # "onnx", "tflite"
    runtime: str = "onnx"  # adapter on the agent: "onnx", "litert"
    runtime_min: str = ""  # lowest runtime version, inclusive; empty: any
    scheme: str = "fp32"  # "fp32", "u8s8", …
    artifact: str = ""  # path of the runtime file
    io: IoSpec | None = None
    files: tuple[FileEntry, ...] = ()
    golden: GoldenSpec | None = None
    decision: DecisionSpec | None = None  # of a detector
    calibration: str = ""  # path of the patch manifest, empty when the variant has none
    probes: tuple[ProbeGraph, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)


def image_order(manifest: BundleManifest) -> tuple[str, ...]:
    """The files of a bundle's *image*: their bytes in this order, which deltas take as base."""
    return (MANIFEST_NAME, *sorted(entry.path for entry in manifest.files))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeGraph:
    """One tiny graph of a probe bundle."""

    path: str
    kernel: str
    scheme: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifest:
    """``releases/<id>.json``: a signed target that names what may run in which slot."""

    release: str
    model: str
    version: str
    slot: str
    counter: int
    variants: Mapping[str, str] = field(default_factory=dict)  # cohort or profile -> digest
    created: str = ""
    ladders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # same keys -> digests
