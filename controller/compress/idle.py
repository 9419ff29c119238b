"""Channels that do nothing: always zero, or never above it before a ReLU, on all inputs seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.catalog import samples
from controller.compress.graph.model import Inputs, View, session, with_outputs

BATCH = 32
_LAYERS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}  # axis of the channels
_ENDS = frozenset({"Relu", "Clip"})


def remarks(model: onnx.ModelProto, inputs: Inputs) -> tuple[str, ...]:
    """A line for each layer with channels that are zero wherever one looks.

    Args:
        model: float model.
        inputs: real inputs [N, …] of the calibration set.

    Raises:
        FitError: onnxruntime refuses the model.
    """
    return tuple(
        f"layer {name}: {int(dead.sum())} of {len(dead)} channels are always zero over the"
        " calibration set; a pruned variant, which needs a torch source, can do without them"
        for name, dead in always_zero(model, inputs).items()
    )


def always_zero(model: onnx.ModelProto, inputs: Inputs) -> Mapping[str, NDArray[np.bool_]]:
    """Channels [C] that are zero over all ``inputs``, by layer; layers without any are left out.

    It looks behind the activation. Inputs are run only until every channel has been seen at work,
    which in most networks is after the first batch.

    Raises:
        FitError: onnxruntime refuses the model.
    """
    looked_at = _ends(model)
    found: dict[str, NDArray[np.bool_]] = {}
    pending = dict(looked_at)
    if not pending or not len(inputs):
        return {}
    runner = session(with_outputs(model, [end for end, _ in pending.values()]))
    entries = runner.get_inputs()
    size = samples.run_size(entries, inputs, BATCH)
    fixed = bool(entries[0].shape) and isinstance(entries[0].shape[0], int)
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        if fixed and len(part) < size:
            break
        fed = samples.feed(entries, part)
        names = list(pending)
        values = runner.run([pending[name][0] for name in names], fed)
        for name, value in zip(names, values, strict=True):
            still = _zero(value, pending[name][1])
            found[name] = found[name] & still if name in found else still
            if not found[name].any():
                del pending[name], found[name]
        if not pending:
            break
    return found


def _ends(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """By layer: the tensor behind its bias and its activation, and the axis of its channels."""
    view = View(model)
    found = {}
    for node in model.graph.node:
        if node.op_type not in _LAYERS or view.constant(node.input[1]) is None:
            continue
        end = node.output[0]
        reader = view.only_consumer(end)
        if node.op_type == "MatMul" and reader is not None and _is_bias(view, reader):
            end = reader.output[0]
            reader = view.only_consumer(end)
        if reader is not None and reader.op_type in _ENDS:
            end = reader.output[0]
        found[node.name or node.output[0]] = (end, _LAYERS[node.op_type])
    return found


def _is_bias(view: View, node: onnx.NodeProto) -> bool:
    return node.op_type == "Add" and any(view.constant(name) is not None for name in node.input)


def _zero(value: NDArray[np.float32], axis: int) -> NDArray[np.bool_]:
    others = tuple(a for a in range(value.ndim) if a != axis % value.ndim)
    return np.asarray((value == 0).all(axis=others))
