"""Bundles: a runtime file and all that belongs to it, in a folder and as a transport file."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.artifacts import packing
from controller.catalog import samples
from controller.compress.calibration import PROBE_NAME, PatchFiles
from controller.errors import FitError
from fitment.core import digest
from fitment.core.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    DecisionSpec,
    FileEntry,
    GoldenSpec,
    IoSpec,
)
from fitment.core.deployment import BundleRef

GOLDENS = 16  # enough to tell a broken kernel, few enough to travel
SHORT_SHARE = 1 / 64  # of the tolerance: golden outputs lose no more where they are stored short
CALIBRATION_NAME = "calibration.json"
_GOLDEN_NAMES = ("golden_inputs.npy", "golden_outputs.npy", "golden_reference.npy")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """Everything that goes into a model's bundle.

    Golden arrays share their first axis, of which ``golden_limit`` rows are shipped. Inputs are
    in the runtime file's own layout (NHWC for LiteRT): uint8 with ``inputs_scale`` (real = scale
    * stored), float32, tokens, or a structured array of several inputs, a record a run.
    """

    name: str  # of the variant; begins with its precision
    model: str
    version: str
    format: str  # "onnx" or "tflite"
    runtime: str  # "onnx" or "litert"
    scheme: str
    artifact: bytes
    io: IoSpec
    golden_inputs: NDArray[Any]
    golden_outputs: NDArray[np.float32]  # this variant's own, on the controller's runtime
    golden_reference: NDArray[np.float32]  # of the fp32 model
    inputs_scale: float = 1.0
    tolerance: float = 1e-3  # absolute, in units of the output
    labels: Sequence[str] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    patch: PatchFiles | None = None
    runtime_min: str = ""  # lowest version of the runtime, inclusive
    golden_limit: int = GOLDENS
    decision: DecisionSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBundle:
    """A bundle that was written."""

    folder: Path
    archive_path: Path
    ref: BundleRef
    file_bytes: int  # of the runtime file; 0 for a probe bundle
    wire_bytes: int  # of the transport file, the whole bundle
    manifest: BundleManifest


def build(request: BundleRequest, out_dir: Path) -> BuiltBundle:
    """Write ``out_dir/<name>/`` and ``out_dir/<name>.tar.xz``; equal requests give equal bytes.

    Raises:
        FitError: the golden arrays do not fit together or hold values that are not finite.
    """
    inputs, outputs, reference = _goldens(request)
    artifact = f"model.{request.format}"
    files = {artifact: request.artifact}
    arrays = zip(_GOLDEN_NAMES, (inputs, outputs, reference), strict=True)
    files |= {name: _npy(values) for name, values in arrays}
    if request.patch is not None:
        files[CALIBRATION_NAME] = digest.canonical(request.patch.manifest)
        files[PROBE_NAME] = request.patch.probe_graph
    manifest = BundleManifest(
        name=request.name,
        model=request.model,
        version=request.version,
        format=request.format,
        runtime=request.runtime,
        runtime_min=request.runtime_min,
        scheme=request.scheme,
        artifact=artifact,
        io=replace(request.io, labels=tuple(request.labels) or request.io.labels),
        golden=GoldenSpec(
            inputs=_GOLDEN_NAMES[0],
            outputs=_GOLDEN_NAMES[1],
            reference=_GOLDEN_NAMES[2],
            tolerance=request.tolerance,
            inputs_scale=request.inputs_scale,
        ),
        decision=request.decision,
        calibration=CALIBRATION_NAME if request.patch is not None else "",
        lineage=dict(request.lineage),
    )
    return write(manifest, files, out_dir, file_bytes=len(request.artifact))


def write(
    manifest: BundleManifest, files: Mapping[str, bytes], out_dir: Path, *, file_bytes: int = 0
) -> BuiltBundle:
    """Write a bundle's files, its manifest with their digests, and its transport file.

    An earlier bundle of the same name in ``out_dir`` is replaced.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", manifest.name).strip(".") or "bundle"
    folder, archive = out_dir / stem, out_dir / f"{stem}.tar.xz"
    shutil.rmtree(folder, ignore_errors=True)
    entries = []
    for path, content in sorted(files.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        entries.append(FileEntry(path=path, sha256=digest.digest_bytes(content), size=len(content)))
    complete = replace(manifest, files=tuple(entries))
    (folder / MANIFEST_NAME).write_bytes(digest.canonical(complete))
    packed = packing.pack(folder, archive)
    return BuiltBundle(
        folder=folder,
        archive_path=archive,
        ref=packing.bundle_ref(packed, manifest.name),
        file_bytes=file_bytes,
        wire_bytes=packed.archive_bytes,
        manifest=complete,
    )


def _goldens(
    request: BundleRequest,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    inputs = request.golden_inputs[: request.golden_limit]
    outputs = np.asarray(request.golden_outputs[: request.golden_limit], np.float32)
    reference = np.asarray(request.golden_reference[: request.golden_limit], np.float32)
    known = inputs.dtype in (np.dtype(np.uint8), np.dtype(np.float32))
    if not (known or samples.is_whole(inputs) or samples.names(inputs)):
        raise FitError(f"golden inputs are uint8, float32 or int64, not {inputs.dtype}")
    if not len(inputs) or len(inputs) != len(outputs) or outputs.shape != reference.shape:
        raise FitError(
            f"golden arrays do not fit together: inputs {inputs.shape}, outputs {outputs.shape}, "
            f"reference {reference.shape}"
        )
    if not (np.isfinite(outputs).all() and np.isfinite(reference).all()):
        raise FitError("golden outputs hold values that are not finite")
    return inputs, _short(outputs, request.tolerance), _short(reference, request.tolerance)


def _short(values: NDArray[np.float32], tolerance: float) -> NDArray[Any]:
    """As float16 where that moves no value by a noticeable part of the tolerance.

    Agents make float32 of what they read, so any of them takes either.
    """
    with np.errstate(over="ignore"):
        short = values.astype(np.float16)
    moved = np.abs(short.astype(np.float32) - values)
    return short if np.all(moved <= tolerance * SHORT_SHARE) else values


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()
