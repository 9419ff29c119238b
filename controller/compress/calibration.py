"""What a device needs to calibrate a quantized variant on its own data.

The controller finds where the first layer's numbers lie in the file, records how that layer
behaves on reference inputs, and ships a small float graph to look at it with. The device then
needs neither onnx nor torch: it measures, and writes a few bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.compress.bundle import PatchFiles
from controller.compress.graph.model import (
    Inputs,
    View,
    copied,
    model_input,
    run_batches,
    with_outputs,
)
from controller.compress.graph.normalize import normalized
from fitment.core import digest
from fitment.core.histogram import BINS, Histogram
from fitment.core.patch import PatchManifest, Place, StemPatch

_SPLITS = 16
_BAND_FACTOR = 1.5
"""A drift is only believed beyond this many times what halves of the reference differ by."""
_GRID = np.linspace(0.001, 0.999, 999)


def stem_patch(
    fp32_model: onnx.ModelProto, quantized_model: bytes, reference_inputs: Inputs
) -> PatchFiles | None:
    """The patch manifest and probe graph of a Q/DQ file, None when its first layer is no Conv.

    Args:
        fp32_model: the float model that was quantized.
        quantized_model: the very bytes of the runtime file.
        reference_inputs: real inputs [N, C, H, W] that calibrated it.
    """
    plain = normalized(fp32_model)
    source = model_input(plain).name
    stem = next((n for n in plain.graph.node if source in n.input), None)
    if stem is None or stem.op_type != "Conv":
        return None
    places = _places(quantized_model, stem.name)
    if places is None:
        return None
    probe = _probe_graph(plain, stem.output[0])
    mean, variance = _moments(probe, reference_inputs)
    reference = _histogram(reference_inputs)
    manifest = PatchManifest(
        artifact_sha256=digest.digest_bytes(quantized_model),
        input_reference=reference,
        drift_band=_band(reference_inputs, reference),
        stem=StemPatch(
            probe="stem_probe.onnx", mean=tuple(mean), variance=tuple(variance), **places
        ),
    )
    return PatchFiles(manifest=manifest, probe_graph=probe.SerializeToString())


def _probe_graph(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """The float model from its input to the stem's pre-activations."""
    probe = with_outputs(copied(model), (target,))
    needed, kept = {target}, []
    for node in reversed(probe.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
    tensors = [
        onnx.TensorProto.FromString(t.SerializeToString())
        for t in probe.graph.initializer
        if t.name in needed
    ]
    del probe.graph.node[:], probe.graph.initializer[:], probe.graph.value_info[:]
    probe.graph.node.extend(nodes)
    probe.graph.initializer.extend(tensors)
    return probe


def _moments(
    probe: onnx.ModelProto, inputs: Inputs
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each output channel over inputs and positions."""
    totals: list[NDArray[np.float64]] = []

    def add(_names: list[str], values: list[NDArray[Any]]) -> None:
        flat = values[0].astype(np.float64).reshape(*values[0].shape[:2], -1)
        totals.append(np.stack([flat.sum(axis=(0, 2)), (flat**2).sum(axis=(0, 2))]))
        sizes.append(flat.shape[0] * flat.shape[2])

    sizes: list[int] = []
    run_batches(probe, inputs, add, batch=32)
    first, second = np.sum(totals, axis=0) / sum(sizes)
    return first, np.maximum(second - first**2, 0.0)


def _histogram(inputs: Inputs, edges: tuple[float, float] | None = None) -> Histogram:
    low, high = edges or (float(inputs.min()), float(inputs.max()))
    counts, _ = np.histogram(np.clip(inputs, low, high), bins=BINS, range=(low, high))
    return Histogram(low=low, high=high, counts=tuple(int(n) for n in counts))


def _band(inputs: Inputs, reference: Histogram) -> float:
    """Largest drift between random halves of the reference, with a margin.

    Drift is the 1-Wasserstein distance of the two distributions (mean distance of equal
    quantiles) as a share of the reference's range.
    """
    random = np.random.default_rng(0)
    span = max(reference.high - reference.low, 1e-12)
    worst = 0.0
    for _ in range(_SPLITS):
        order = random.permutation(len(inputs))
        halves = (inputs[order[: len(order) // 2]], inputs[order[len(order) // 2 :]])
        one, other = (np.quantile(half, _GRID) for half in halves)
        worst = max(worst, float(np.abs(one - other).mean() / span))
    return max(0.01, _BAND_FACTOR * worst)


def _places(content: bytes, stem: str) -> dict[str, Place] | None:
    """Byte offsets of the stem's numbers, None when its parts are not as we write them."""
    model = onnx.ModelProto.FromString(content)
    view = View(model)
    node = next((n for n in model.graph.node if n.name == stem), None)
    if node is None or len(node.input) < 3:
        return None
    makers = [view.producers.get(name) for name in node.input[:3]]
    if any(m is None or m.op_type != "DequantizeLinear" for m in makers):
        return None
    source, weights, bias = (m for m in makers if m is not None)
    wanted = {
        "input_scale": source.input[1],
        "input_zero_point": source.input[2],
        "weight_scale": weights.input[1],
        "bias": bias.input[0],
        "bias_scale": bias.input[1],
    }
    shared = [n for n in wanted.values() if len(view.consumers.get(n, ())) > 2]
    if shared:
        return None
    offsets = _offsets(content)
    return {
        role: _place(view.initializers[name], offsets[name], content)
        for role, name in wanted.items()
    }


def _place(tensor: onnx.TensorProto, offset: int, content: bytes) -> Place:
    array = numpy_helper.to_array(tensor)
    if content[offset : offset + array.nbytes] != array.tobytes():
        raise AssertionError(f"{tensor.name} does not lie at {offset}")
    return Place(offset=offset, dtype=array.dtype.name, count=array.size)


def _offsets(content: bytes) -> dict[str, int]:
    """Initializer name to the offset of its raw data, by walking the protobuf wire format.

    ModelProto.graph is field 7, GraphProto.initializer field 5, TensorProto.name field 8 and
    raw_data field 9 (onnx.proto).
    """
    found: dict[str, int] = {}
    for number, start, end in _fields(content, 0, len(content)):
        if number != 7:
            continue
        for inner, first, last in _fields(content, start, end):
            if inner != 5:
                continue
            parts = {n: (a, b) for n, a, b in _fields(content, first, last)}
            if 8 in parts and 9 in parts:
                name = content[slice(*parts[8])].decode()
                found[name] = parts[9][0]
    return found


def _fields(content: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """(field number, start, end) of the length-delimited fields between two offsets."""
    found, at = [], start
    while at < end:
        key, at = _varint(content, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            found.append((key >> 3, at, at + size))
            at += size
        elif kind in (1, 5):
            at += struct.calcsize("q" if kind == 1 else "i")
        else:
            raise ValueError(f"unexpected wire type {kind} at {at}")
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
