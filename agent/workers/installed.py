"""A bundle as it lies in a folder: its manifest, its model, its golden answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.jobs import RuntimeOptions
from agent.workers import overlay as overlays
from agent.workers.child import JobError
from agent.workers.runtimes import registry
from agent.workers.runtimes.base import Array, Float, Model, Session
from fitment.core import digest, plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest, GoldenSpec
from fitment.core.histogram import Histogram
from fitment.core.patch import PatchManifest

_READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One unpacked bundle; its digests were checked when it was staged."""

    folder: Path
    variant: str  # digest of the manifest
    manifest: BundleManifest

    @property
    def artifact(self) -> Path:
        """The runtime file."""
        return self.folder / self.manifest.artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A session and how long it took to make it."""

    bundle: Bundle
    session: Session
    overlay: str  # id, empty when pristine
    load_ms: float

    @property
    def runtime(self) -> str:
        """Name and version, ``onnx 1.32.0``."""
        return f"{self.bundle.manifest.runtime} {self.session.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goldens:
    """Inputs (real values) with known answers; all have the same first axis.

    Several inputs are one structured array, a field each: a record is what one run takes.
    """

    inputs: Array
    outputs: Float
    reference: Float
    tolerance: float


def manifest_in(path: Path) -> BundleManifest:
    """The manifest that a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it makes no sense.
    """
    return plain.from_plain(BundleManifest, json.loads(path.read_bytes()))


def read(folder: str | Path) -> Bundle:
    """Read the manifest of an unpacked bundle.

    Raises:
        JobError: ``bundle_invalid``; there is no bundle, or it makes no sense.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = path.read_bytes()
        manifest = plain.from_plain(BundleManifest, json.loads(content))
    except (OSError, ValueError) as error:
        raise JobError(
            "bundle_invalid", f"{path} cannot be read: {error}: stage the bundle again"
        ) from error
    return Bundle(folder=Path(folder), variant=digest.digest_bytes(content), manifest=manifest)


def verify(bundle: Bundle, variant: str = "") -> None:
    """Compare every file with the manifest, and that with ``variant`` where it is given.

    Raises:
        JobError: ``bundle_damaged``; what is on the disk is not what was unpacked there.
    """
    problem = ""
    if variant and variant != bundle.variant:
        problem = f"its manifest is not that of {digest.short(variant)}"
    for entry in bundle.manifest.files:
        try:
            with (bundle.folder / entry.path).open("rb") as file:
                found = digest.digest_chunks(iter(lambda: file.read(_READ_BYTES), b""))
        except OSError as error:
            problem = f"{entry.path} cannot be read: {error.strerror}"
            break
        if found != entry.sha256:
            problem = f"{entry.path} differs from its entry in the manifest"
            break
    if problem:
        raise JobError("bundle_damaged", f"{bundle.folder} is damaged: {problem}", permanent=True)


def load(bundle: Bundle, options: RuntimeOptions, *, overlay: str = "") -> Loaded:
    """Load the bundle's model, patched by the overlay file where one is named."""
    runtime = registry.get(bundle.manifest.runtime)  # imports are not load time
    started = time.perf_counter_ns()
    model: Model = bundle.artifact
    overlay_id = ""
    if overlay:
        patch = overlays.load(Path(overlay))
        model, overlay_id = overlays.apply(bundle.artifact.read_bytes(), patch), patch.id
    session = runtime.load(model, options, io=bundle.manifest.io)
    load_ms = (time.perf_counter_ns() - started) / 1e6
    return Loaded(bundle=bundle, session=session, overlay=overlay_id, load_ms=load_ms)


def goldens(bundle: Bundle) -> Goldens:
    """The golden inputs and answers.

    Raises:
        JobError: ``bundle_invalid``; there are none, or their shapes contradict.
    """
    spec = bundle.manifest.golden
    if spec is None:
        raise JobError(
            "bundle_invalid",
            f"the bundle {digest.short(bundle.variant)} ships no golden inputs",
            permanent=True,
        )
    inputs = scaled(_array(bundle, spec.inputs), spec)
    outputs = _array(bundle, spec.outputs).astype(np.float32)
    reference = _array(bundle, spec.reference).astype(np.float32)
    if not len(inputs) or len(inputs) != len(outputs) or outputs.shape != reference.shape:
        raise JobError(
            "bundle_invalid",
            f"golden arrays do not fit together: {inputs.shape} inputs, {outputs.shape} outputs, "
            f"{reference.shape} reference outputs",
            permanent=True,
        )
    return Goldens(inputs=inputs, outputs=outputs, reference=reference, tolerance=spec.tolerance)


def input_reference(bundle: Bundle) -> Histogram | None:
    """The histogram of the inputs that the variant was made for; None where none is shipped."""
    if not bundle.manifest.calibration:
        return None
    try:
        content = (bundle.folder / bundle.manifest.calibration).read_bytes()
        return plain.from_plain(PatchManifest, json.loads(content)).input_reference
    except (OSError, ValueError):
        return None  # calibration would say what is wrong with it; serving does without


def scaled(stored: Array, golden: GoldenSpec | None) -> Array:
    """Stored inputs to real values: integers times the bundle's ``inputs_scale``."""
    if stored.dtype.names:
        return stored
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    scale = golden.inputs_scale if golden is not None else 1.0
    return np.asarray(stored.astype(np.float32) * np.float32(scale), dtype=np.float32)


def feeds(session: Session, inputs: Array) -> list[list[Array]]:
    """Real inputs as one run after the other takes them: a list of arrays, one an input.

    The last batch is filled by repetition.

    Raises:
        JobError: ``input_mismatch``; the model has other inputs than the samples.
    """
    if not inputs.dtype.names:
        return [[batch] for batch in _batches(session, inputs)]
    names = [tensor.name for tensor in session.inputs]
    if set(names) != set(inputs.dtype.names):
        raise JobError(
            "input_mismatch",
            f"the model has the inputs {', '.join(names)}, the samples "
            f"{', '.join(inputs.dtype.names)}",
            permanent=True,
        )
    return [[np.asarray(record[name]) for name in names] for record in inputs]


def together(session: Session, inputs: Array) -> list[Array]:
    """Real inputs as one run of all of them takes them, where the first axis is free."""
    if not inputs.dtype.names:
        return [inputs]
    return [np.concatenate(list(inputs[tensor.name])) for tensor in session.inputs]


def _batches(session: Session, inputs: Array) -> list[Array]:
    size = session.inputs[0].batch
    missing = -len(inputs) % size
    if missing:
        inputs = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def answers(session: Session, inputs: Array) -> Float:
    """The first output for all ``inputs``, in real values; one row a sample."""
    rows = [session.run(feed)[0] for feed in feeds(session, inputs)]
    if inputs.dtype.names:  # a run is a sample, whose output need not have an axis for it
        rows = [row if row.ndim and len(row) == 1 else row[None] for row in rows]
    return np.concatenate(rows)[: len(inputs)]


def _array(bundle: Bundle, name: str) -> Array:
    path = bundle.folder / name
    try:
        loaded: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise JobError(
            "bundle_invalid", f"{path} cannot be read: {error}: stage the bundle again"
        ) from error
    return loaded
