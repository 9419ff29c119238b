"""What a device needs to calibrate a model without onnx or torch.

A patch manifest says how the reference inputs are distributed, how far a sample of them strays by
chance, and how neighbouring values differ: that is enough to correct what is fed, whatever the
runtime. For a quantized ONNX file it also says where the first layer's scales, zero point and
bias lie in it (bytes, so the device only writes there) and which moments its pre-activations have
over reference inputs; a small float graph computes the same pre-activations on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.catalog import samples
from controller.compress.graph import offsets
from controller.compress.graph.model import (
    Array,
    Inputs,
    View,
    model_input,
    run_batches,
    with_outputs,
)
from controller.compress.graph.normalize import normalized, replace_nodes
from controller.errors import FitError
from fitment.core import digest
from fitment.core.histogram import BINS, Histogram
from fitment.core.patch import PatchManifest, Place, RangePlace, Spread, StemPatch, Texture

PROBE_NAME = "stem_probe.onnx"
_SUBSET = 64  # inputs that a device calibrates from at the least
_DRAWS = 32
_BAND_FACTOR = 1.25
_SEED = 20261124
_IMAGE = 4  # axes of a batch of images
_QUIET = 0.25  # quantile of the differences, see `fitment.core.patch.Texture`
_PAIRS_MAX = 2**20  # that it is taken of
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles within an input
_RARE = 0.02  # share of the reference left out at either end


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFiles:
    """The files that calibration adds to a bundle."""

    manifest: PatchManifest
    probe_graph: bytes = b""  # where there is a stem


def input_patch(artifact: bytes, reference_inputs: Inputs) -> PatchFiles | None:
    """What correcting the inputs of any runtime file needs.

    Args:
        artifact: the runtime file as it is shipped.
        reference_inputs: real inputs float32 [N, …] in the source's layout (NCHW), such as the
            calibration set.

    Returns:
        None where the inputs are several, or are no measured quantity (tokens).

    Raises:
        FitError: there are no reference inputs.
    """
    if not len(reference_inputs):
        raise FitError("a patch manifest needs reference inputs")
    if samples.names(reference_inputs) or reference_inputs.dtype.kind != "f":
        return None
    reference = histogram(reference_inputs)
    manifest = PatchManifest(
        artifact_sha256=digest.digest_bytes(artifact),
        input_reference=reference,
        drift_band=drift_band(reference_inputs, reference),
        texture=texture(reference_inputs),
        spread=spread(reference_inputs),
    )
    return PatchFiles(manifest=manifest)


def stem_patch(
    fp32_model: onnx.ModelProto, quantized_model: bytes, reference_inputs: Inputs
) -> PatchFiles | None:
    """Patch manifest and probe graph for a Q/DQ file of `quantize.static`.

    Args:
        fp32_model: what was quantized.
        quantized_model: the runtime file as it is shipped.
        reference_inputs: real inputs float32 [N, …], such as the calibration set.

    Returns:
        None when the model's input does not go straight and only into a quantized convolution
        whose numbers are its own: then nothing can be patched safely.

    Raises:
        FitError: ``quantized_model`` is no ONNX file, or there are no reference inputs.
    """
    files = input_patch(quantized_model, reference_inputs)
    if files is None:
        return None
    try:
        quantized = onnx.load_from_string(quantized_model)
    except DecodeError as error:
        raise FitError(f"only ONNX files are patched, this is none: {error}") from error
    names = _stem(quantized)
    probe = None if names is None else _probe(fp32_model, names.node)
    if names is None or probe is None:
        return None
    places = _places(quantized, quantized_model, names)
    if places is None:
        return None
    mean, variance = _moments(probe, reference_inputs)
    reference = files.manifest.input_reference
    stem = StemPatch(
        probe=PROBE_NAME,
        input_scale=places["input_scale"],
        input_zero_point=places["input_zero_point"],
        weight_scale=places["weight_scale"],
        bias=places["bias"],
        bias_scale=places["bias_scale"],
        mean=tuple(mean.tolist()),
        variance=tuple(variance.tolist()),
    )
    own_range = RangePlace(
        tensor=model_input(quantized).name,
        scale=stem.input_scale,
        zero_point=stem.input_zero_point,
        low=min(reference.low, 0.0),
        high=max(reference.high, 0.0),
    )
    manifest = replace(files.manifest, stem=stem, ranges=(own_range,))
    return PatchFiles(manifest=manifest, probe_graph=probe.SerializeToString(deterministic=True))


def histogram(values: Array) -> Histogram:
    """Counts of `BINS` bins between the least and the largest value.

    The edges are not widened: a device bins its own samples between their own extremes and
    compares quantiles, and the reference's range is the unit that drift is measured in.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        high = low + 1e-12 + abs(low) * 1e-6
    return _counted(values, low, high)


def texture(inputs: Inputs) -> Texture | None:
    """How neighbouring values of inputs [N, …] differ; None where there are no neighbours.

    A device computes the same of its own samples (`agent.workers.texture`, which says more).
    """
    axes = [axis for axis in range(1, inputs.ndim)[-2:] if inputs.shape[axis] > 1]
    if inputs.ndim != _IMAGE:
        axes = [axis for axis in axes if axis == inputs.ndim - 1]
    variance = float(inputs.var(dtype=np.float64))
    if not axes or variance <= 0.0:
        return None
    stride = 1 + len(axes) * inputs.size // _PAIRS_MAX
    squares, count, kept = 0.0, 0, []
    for sample in inputs:
        for axis in axes:
            steps = np.diff(sample, axis=axis - 1).ravel().astype(np.float64)
            squares += float(steps @ steps)
            count += steps.size
            kept.append(np.abs(steps[::stride]).astype(np.float32))
    quiet = float(np.quantile(np.concatenate(kept), _QUIET))
    return Texture(roughness=squares / count / (2.0 * variance), quiet=quiet)


def spread(inputs: Inputs) -> Spread:
    """How far whole inputs [N, …] differ from one another, see the type.

    A device computes the same of its own samples (`agent.workers.worth`, which says more).
    """
    rows = []
    for sample in inputs:
        values = np.asarray(sample, dtype=np.float64).ravel()
        levels = np.quantile(values, _LEVELS)
        rows.append([values.mean(), values.std(), *levels, levels[-1] - levels[0]])
    low, high = np.quantile(np.array(rows), (_RARE, 1.0 - _RARE), axis=0)
    return Spread(low=tuple(low.tolist()), high=tuple(high.tolist()))


def drift(reference: Histogram, other: Histogram) -> float:
    """1-Wasserstein distance over the reference's range, for histograms of the same edges.

    ``∫ |Q_a(u) - Q_b(u)| du`` over quantiles is ``∫ |F_a(x) - F_b(x)| dx`` over values, a sum
    over bins here.

    Raises:
        FitError: the edges differ.
    """
    if (reference.low, reference.high) != (other.low, other.high):
        raise FitError("histograms with different edges cannot be compared bin by bin")
    shares = [np.cumsum(h.counts) / max(h.total, 1) for h in (reference, other)]
    return float(np.abs(shares[0] - shares[1]).mean())


def drift_band(inputs: Inputs, reference: Histogram) -> float:
    """Largest drift of small random samples of the reference itself, and a quarter more.

    Samples are as small as the fewest a device calibrates from, or half of the inputs.
    """
    generator = np.random.default_rng(_SEED)
    size = max(1, min(_SUBSET, len(inputs) // 2))
    drifts = []
    for _ in range(_DRAWS):
        chosen = inputs[generator.choice(len(inputs), size=size, replace=False)]
        drifts.append(drift(reference, _counted(chosen, reference.low, reference.high)))
    return _BAND_FACTOR * max(drifts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The stem's node and the initializers that hold its numbers."""

    node: str
    initializers: dict[str, str]  # part of a `StemPatch` -> initializer


def _stem(model: onnx.ModelProto) -> _Names | None:
    """Input -> Q -> DQ -> Conv, each the only reader of the one before."""
    view = View(model)
    found: list[onnx.NodeProto] = []
    name = model_input(model).name
    for wanted in ("QuantizeLinear", "DequantizeLinear", "Conv"):
        node = view.only_consumer(name)
        if node is None or node.op_type != wanted:
            return None
        found.append(node)
        name = node.output[0]
    writer, reader, stem = found
    if list(writer.input[1:]) != list(reader.input[1:]) or len(stem.input) < 3:
        return None
    weights, bias = (view.producers.get(stem.input[i]) for i in (1, 2))
    if weights is None or bias is None:
        return None
    if {weights.op_type, bias.op_type} != {"DequantizeLinear"}:
        return None
    initializers = {
        "input_scale": writer.input[1],
        "input_zero_point": writer.input[2],
        "weight_scale": weights.input[1],
        "bias": bias.input[0],
        "bias_scale": bias.input[1],
    }
    readers = {part: len(view.consumers.get(n, [])) for part, n in initializers.items()}
    shared = {"input_scale": 2, "input_zero_point": 2}
    if any(count != shared.get(part, 1) for part, count in readers.items()):
        return None
    return _Names(node=stem.name, initializers=initializers)


def _places(model: onnx.ModelProto, data: bytes, names: _Names) -> dict[str, Place] | None:
    """Places in the file, each read back and compared with the model's own value."""
    extents = offsets.initializer_extents(data)
    view = View(model)
    places = {}
    for part, name in names.initializers.items():
        tensor, extent = view.initializers.get(name), extents.get(name)
        if tensor is None or extent is None:
            return None
        values = numpy_helper.to_array(tensor)
        raw = data[extent.offset : extent.offset + extent.size]
        if raw != values.astype(values.dtype.newbyteorder("<")).tobytes():
            raise FitError(f"'{name}' was not found where it should lie in the file")
        places[part] = Place(
            offset=extent.offset, dtype=values.dtype.name, count=max(values.size, 1)
        )
    return places


def _probe(model: onnx.ModelProto, stem: str) -> onnx.ModelProto | None:
    """The float model cut off behind the stem's pre-activations."""
    plain = normalized(model)
    node = next((n for n in plain.graph.node if n.name == stem), None)
    if node is None or node.input[0] != model_input(plain).name:
        return None
    probe = with_outputs(plain, [node.output[0]])
    needed = set(node.input)
    constants = [n for n in plain.graph.node if n.op_type == "Constant" and n.output[0] in needed]
    replace_nodes(probe.graph, [*constants, node])
    kept = [item for item in probe.graph.initializer if item.name in needed]
    del probe.graph.initializer[:]
    probe.graph.initializer.extend(kept)
    return probe


def _moments(
    probe: onnx.ModelProto, inputs: Inputs
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each output channel (axis 1) over all inputs and positions."""
    sums: list[Array] = []
    squares: list[Array] = []
    counts: list[int] = []

    def add(_: list[str], values: list[Array]) -> None:
        channels = np.moveaxis(values[0].astype(np.float64), 1, 0)
        flat = channels.reshape(len(channels), -1)
        sums.append(flat.sum(axis=1))
        squares.append((flat**2).sum(axis=1))
        counts.append(flat.shape[1])

    run_batches(probe, inputs, add, batch=64)
    mean = np.sum(sums, axis=0) / sum(counts)
    variance = np.maximum(np.sum(squares, axis=0) / sum(counts) - mean**2, 0.0)
    return mean, variance


def _counted(values: Array, low: float, high: float) -> Histogram:
    counts, _ = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    return Histogram(low=low, high=high, counts=tuple(int(count) for count in counts))
