"""Bundles for the checks: one tiny real model in the format of each runtime, ``y = W x + b``.

A name makes a bundle of its own (another manifest, another digest), so that one model serves all.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import numpy as np

from fitment.core import digest
from fitment.core.bundle import BundleManifest, FileEntry, GoldenSpec, IoSpec, TensorSpec

DATA: Final = Path(__file__).resolve().parent / "data"
FORMATS: Final = {"onnx": "onnx", "litert": "tflite"}
"""Runtime, as fingerprints name it, to format: what there are test models for."""

WEIGHT: Final = np.array(
    [
        [0.3455841839313507, 0.8216181397438049, 0.3304370641708374, -1.3031572103500366],
        [0.9053558707237244, 0.4463745653629303, -0.5369532108306885, 0.581118106842041],
        [0.3645724058151245, 0.2941325008869171, 0.028422242030501366, 0.5467129945755005],
    ],
    dtype=np.float32,
)
BIAS: Final = np.array([0.1, -0.2, 0.3], dtype=np.float32)
_SHIFT: Final = 1.0  # of wrong golden answers
_COUNT: Final = 16


def make(folder: Path, runtime: str, name: str, *, wrong: bool = False, padding: int = 0) -> Path:
    """Write an unpacked bundle.

    Args:
        folder: to write to; must be free.
        runtime: a key of `FORMATS`.
        name: of the variant.
        wrong: its recorded golden answers are not the model's.
        padding: bytes that do not compress, so that a transfer takes several chunks.
    """
    folder.mkdir(parents=True)
    artifact = f"model.{FORMATS[runtime]}"
    (folder / artifact).write_bytes((DATA / f"affine.{FORMATS[runtime]}").read_bytes())
    inputs = np.random.default_rng(2).uniform(-1.5, 1.5, (_COUNT, 4)).astype(np.float32)
    outputs = (inputs @ WEIGHT.T + BIAS).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "outputs.npy", outputs + np.float32(_SHIFT if wrong else 0.0))
    np.save(folder / "reference.npy", outputs)
    if padding:
        (folder / "padding.bin").write_bytes(secrets.token_bytes(padding))
    manifest = BundleManifest(
        name=name, model="conformance", version="1", format=FORMATS[runtime], runtime=runtime,
        artifact=artifact, io=_io(runtime), files=_entries(folder),
        golden=GoldenSpec(
            inputs="inputs.npy", outputs="outputs.npy", reference="reference.npy", tolerance=1e-4
        ),
    )  # fmt: skip
    (folder / "bundle.json").write_bytes(digest.canonical(manifest))
    return folder


def _io(runtime: str) -> IoSpec:
    rows = -1 if runtime == "onnx" else 1
    return IoSpec(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(rows, 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(rows, 3)),),
        layout="rows",
    )


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return tuple(
        FileEntry(path=name, sha256=digest.digest_bytes(data), size=len(data))
        for name, data in files.items()
    )
