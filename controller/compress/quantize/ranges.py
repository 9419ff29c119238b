"""Ranges of all activations over calibration inputs, by our own observers.

The float model runs in onnxruntime with every activation as an output, batch by batch, so that
memory does not grow with the number of inputs (onnxruntime's own calibrators keep everything:
about 60 MB a sample for a MobileNetV2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from controller.catalog import samples
from controller.compress.graph.model import (
    Array,
    Inputs,
    copied,
    is_float,
    model_inputs,
    run_batches,
    with_outputs,
)
from controller.compress.graph.normalize import normalized
from controller.compress.quantize.observers import CALIBRATORS, Range, Watch
from controller.errors import FitError

__all__ = ["Range", "collect"]


def collect(
    model: onnx.ModelProto, inputs: Inputs, *, calibrator: str = "minmax", batch: int = 32
) -> Mapping[str, Range]:
    """Range of every float input and activation, by tensor name of the normalized model.

    Args:
        model: float model.
        inputs: real inputs [N, …] in the model's layout.
        calibrator: "minmax", "percentile" (99.99 on both sides), "mse" or "kl".
        batch: inputs in one run; a fixed first axis of the model wins.

    Raises:
        FitError: unknown calibrator, no inputs, or activations that are not finite.
    """
    if calibrator not in CALIBRATORS:
        raise FitError(f"unknown calibrator '{calibrator}', known: {', '.join(CALIBRATORS)}")
    if not len(inputs):
        raise FitError("calibration needs at least one input")
    tapped, names = _tapped(normalized(model))
    watches = {name: Watch() for name in names}
    fed = _fed(model, inputs)
    for name, values in fed.items():
        watches[name] = Watch()
        watches[name].see_extremes(values)

    def extremes(found: list[str], values: list[Array]) -> None:
        for name, value in zip(found, values, strict=True):
            watches[name].see_extremes(value)

    def counts(found: list[str], values: list[Array]) -> None:
        for name, value in zip(found, values, strict=True):
            watches[name].see_counts(value)

    run_batches(tapped, inputs, extremes, batch=batch)
    _refuse_infinite(watches)
    if calibrator != "minmax":
        for name, values in fed.items():
            watches[name].see_counts(values)
        run_batches(tapped, inputs, counts, batch=batch)
    return {name: CALIBRATORS[calibrator](watch) for name, watch in watches.items()}


def _fed(model: onnx.ModelProto, inputs: Inputs) -> Mapping[str, Array]:
    """Values of every float input by its name: whole numbers are never scaled."""
    floats = [item.name for item in model_inputs(model) if is_float(item)]
    if samples.names(inputs):
        return {name: inputs[name] for name in floats}
    return dict.fromkeys(floats, inputs)


def _tapped(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy that gives out every float activation that a node makes."""
    inferred = onnx.shape_inference.infer_shapes(copied(model))
    values = (*inferred.graph.value_info, *inferred.graph.output)
    floats = {
        item.name: None
        for item in values
        if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    constants = {n.output[0] for n in model.graph.node if n.op_type == "Constant"}
    made = [name for node in model.graph.node for name in node.output]
    names = tuple(name for name in made if name in floats and name not in constants)
    return with_outputs(model, names), names


def _refuse_infinite(watches: Mapping[str, Watch]) -> None:
    bad = [n for n, w in watches.items() if not np.isfinite(w.low) or not np.isfinite(w.high)]
    if bad:
        raise FitError(f"activations are not finite on the calibration inputs: {', '.join(bad)}")
