"""Bundles: everything a device needs of a variant, under one digest."""

from __future__ import annotations

import io as streams
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.artifacts import packing
from fitment.core import digest
from fitment.core.bundle import (
    MANIFEST_NAME,
    BundleManifest,
    FileEntry,
    GoldenSpec,
    IoSpec,
    ProbeGraph,
)
from fitment.core.deployment import BundleRef
from fitment.core.patch import PatchManifest

SUFFIX: Mapping[str, str] = {"onnx": ".onnx", "tflite": ".tflite"}
CALIBRATION, STEM_PROBE = "calibration.json", "stem_probe.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFiles:
    """What on-device calibration needs: where to write, and how to look."""

    manifest: PatchManifest
    probe_graph: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """The content of a model's bundle; golden arrays are in the runtime file's input layout."""

    name: str
    model: str
    version: str
    format: str
    runtime: str
    scheme: str
    artifact: bytes
    io: IoSpec
    golden_inputs: NDArray[Any]
    golden_outputs: NDArray[np.float32]
    golden_reference: NDArray[np.float32]
    inputs_scale: float
    tolerance: float
    labels: tuple[str, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    patch: PatchFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBundle:
    """A bundle on disk, unpacked and packed."""

    folder: Path
    archive_path: Path
    ref: BundleRef
    file_bytes: int  # of the runtime file
    wire_bytes: int  # of the whole transport file
    manifest: BundleManifest


def build(request: BundleRequest, out: Path) -> BuiltBundle:
    """Write and pack a model's bundle below ``out``."""
    artifact = "model" + SUFFIX[request.format]
    files = {
        artifact: request.artifact,
        "golden_inputs.npy": _npy(request.golden_inputs),
        "golden_outputs.npy": _npy(request.golden_outputs.astype(np.float32)),
        "golden_reference.npy": _npy(request.golden_reference.astype(np.float32)),
    }
    if request.patch is not None:
        files[CALIBRATION] = digest.canonical(request.patch.manifest)
        files[STEM_PROBE] = request.patch.probe_graph
    manifest = BundleManifest(
        name=request.name, model=request.model, version=request.version, format=request.format,
        runtime=request.runtime, scheme=request.scheme, artifact=artifact, io=request.io,
        golden=GoldenSpec(
            inputs="golden_inputs.npy", outputs="golden_outputs.npy",
            reference="golden_reference.npy", tolerance=request.tolerance,
            inputs_scale=request.inputs_scale,
        ),
        calibration=CALIBRATION if request.patch is not None else "",
        lineage=dict(request.lineage), files=_entries(files),
    )  # fmt: skip
    return _pack(manifest, files, out, request.name, len(request.artifact))


def build_probe(
    runtime: str,
    format_: str,
    graphs: Mapping[str, bytes],
    probes: tuple[ProbeGraph, ...],
    out: Path,
) -> BuiltBundle:
    """Write and pack a bundle of tiny graphs."""
    name = f"probe-{runtime}"
    manifest = BundleManifest(
        kind="probe", name=name, format=format_, runtime=runtime, files=_entries(graphs),
        probes=probes,
    )  # fmt: skip
    return _pack(manifest, graphs, out, name, sum(map(len, graphs.values())))


def _pack(
    manifest: BundleManifest, files: Mapping[str, bytes], out: Path, name: str, file_bytes: int
) -> BuiltBundle:
    folder = out / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        (folder / path).write_bytes(content)
    (folder / MANIFEST_NAME).write_bytes(digest.canonical(manifest))
    archive = out / "bundle.tar.xz"
    packed = packing.pack(folder, archive)
    return BuiltBundle(
        folder=folder, archive_path=archive, ref=packing.bundle_ref(packed, name),
        file_bytes=file_bytes, wire_bytes=packed.archive_bytes, manifest=manifest,
    )  # fmt: skip


def _entries(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(path=path, sha256=digest.digest_bytes(content), size=len(content))
        for path, content in sorted(files.items())
    )


def _npy(array: NDArray[Any]) -> bytes:
    stream = streams.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
