"""ONNX models: reading, looking things up, counting work. Models are never changed in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from controller.catalog import samples
from controller.compress.graph.subgraphs import outer_reads
from controller.errors import FitError, WorkloadError

HEAVY: Mapping[str, bool] = {
    # operator that does most of the arithmetic -> whether it computes in integers
    "Conv": False,
    "ConvTranspose": False,
    "FusedConv": False,
    "NhwcFusedConv": False,
    "Gemm": False,
    "FusedGemm": False,
    "MatMul": False,
    "FusedMatMul": False,
    "ConvInteger": True,
    "MatMulInteger": True,
    "MatMulIntegerToFloat": True,
    "DynamicQuantizeMatMul": True,
    "QLinearConv": True,
    "QLinearMatMul": True,
    "QGemm": True,
}

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = NDArray[Any]
"""Real inputs: float32 [N, …], tokens int64 [N, …], or named ones, see `catalog.samples`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One heavy layer at batch 1. A fully connected layer has kernel, stride and size 1."""

    kind: str  # "conv", "dwconv" or "gemm"
    kernel: tuple[int, int]
    stride: int
    cin: int
    cout: int
    height: int  # of the layer's input
    width: int
    macs: int  # multiply-accumulates
    name: str  # of the node


class View:
    """Look-up tables over a graph, right until the graph is changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.initializers = {item.name: item for item in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, (*node.input, *outer_reads(node))):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = frozenset(item.name for item in graph.output)

    def constant(self, name: str) -> Array | None:
        """Value of an initializer or of a ``Constant`` node, None for anything else."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        attribute = node.attribute[0]
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            return numpy_helper.to_array(value)
        dtype = np.float32 if "float" in attribute.name else np.int64
        return np.asarray(value, dtype)

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads ``name``; None when there are several or it is an output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


class Names:
    """Gives names that a graph does not hold yet."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        named: list[Any] = [*graph.initializer, *graph.input, *graph.node]
        self._taken = {str(item.name) for item in named}
        self._taken |= {name for node in graph.node for name in (*node.input, *node.output)}

    def fresh(self, wish: str) -> str:
        """``wish``, or ``wish`` with a number where that is taken."""
        name, number = wish, 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with its external data.

    Raises:
        WorkloadError: there is no such file, or it is something else; the message says what.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise WorkloadError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise WorkloadError(f"{path} is a folder, an ONNX file is needed") from error
    foreign = _foreign(head)
    if foreign:
        raise WorkloadError(f"{path} is {foreign}, not an ONNX model: export it to ONNX first")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise WorkloadError(f"{path} is not a valid ONNX model: {error}") from error
    return model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def session(model: onnx.ModelProto | bytes, *, threads: int = 1, optimize: bool = True) -> Any:
    """An onnxruntime session on the CPU; ``threads`` is for one operator.

    Raises:
        FitError: onnxruntime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except refusals() as error:
        raise FitError(f"onnxruntime cannot load the model: {error}") from error


def refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a model it does not take; these share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    kinds = (getattr(state, name, None) for name in (*names, "RuntimeException"))
    return (RuntimeError, ValueError, *(kind for kind in kinds if kind is not None))


def run_batches(
    model: onnx.ModelProto,
    inputs: Inputs,
    each: Callable[[list[str], list[Array]], None],
    *,
    batch: int,
) -> None:
    """Run ``inputs`` [N, …] in batches; ``each`` gets output names and values of every batch."""
    runner = session(model)
    entries = runner.get_inputs()
    names = [item.name for item in runner.get_outputs()]
    size = samples.run_size(entries, inputs, batch)
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        first = entries[0].shape[0] if entries[0].shape else None
        if len(part) == size or not isinstance(first, int):
            each(names, runner.run(None, samples.feed(entries, part)))


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose graph outputs are exactly the float tensors ``names``."""
    copy = copied(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    return copy


def with_batch(model: onnx.ModelProto, size: int | None) -> onnx.ModelProto:
    """A copy whose inputs and outputs have ``size`` as first axis; None frees it."""
    copy = copied(model)
    known = {item.name for item in copy.graph.initializer}
    if len(model_inputs(model)) > 1:
        return copy  # which of their axes is the batch is not said
    for value in (*copy.graph.input, *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name in known or not dims:
            continue
        if size is None:
            dims[0].dim_param = "batch"
        else:
            dims[0].dim_value = size
    del copy.graph.value_info[:]
    return copy


def shapes(
    model: onnx.ModelProto, *, batch: int = 1, like: Inputs | None = None
) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that has a known one at that batch size.

    With ``like``, real inputs, the model is run on one of them where inference leaves the shape
    of a heavy layer open: sizes that are free in the file are then those of the sample.
    """
    known = _inferred(model, batch)
    if like is None or all(
        name in known for node in model.graph.node if node.op_type in HEAVY for name in node.input
    ):
        return known
    return known | _observed(model, like[:1])


def _observed(model: onnx.ModelProto, one: Inputs) -> dict[str, tuple[int, ...]]:
    """Shapes of all that a run on one sample makes, subgraphs left out."""
    copy = copied(model)
    made = [name for node in copy.graph.node for name in node.output if name]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in made)
    runner = session(copy, optimize=False)
    found = runner.run(None, samples.feed(runner.get_inputs(), one))
    fed = {e.name: (one[e.name][0] if samples.names(one) else one) for e in runner.get_inputs()}
    values = {**fed, **dict(zip(made, found, strict=True))}
    return {n: tuple(v.shape) for n, v in values.items() if isinstance(v, np.ndarray)}


def _inferred(model: onnx.ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(with_batch(model, batch), data_prop=True)
    graph = inferred.graph
    found = {item.name: tuple(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return found


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are fed (old files list weights among the inputs, too)."""
    known = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in known]


def is_float(value: onnx.ValueInfoProto) -> bool:
    """Whether a tensor holds float32."""
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def model_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is fed.

    Raises:
        FitError: there are none or several.
    """
    fed = model_inputs(model)
    if len(fed) != 1:
        names = ", ".join(item.name for item in fed)
        raise FitError(f"models with exactly one input are compressed, this one has: {names}")
    return fed[0]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that the model uses."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def heavy_ops(model: onnx.ModelProto) -> int:
    """Number of convolutions and matrix products."""
    return sum(node.op_type in HEAVY for node in model.graph.node)


def macs(model: onnx.ModelProto, like: Inputs | None = None) -> int:
    """Multiply-accumulates of one sample, those in subgraphs and recurrent layers left out."""
    return sum(layer.macs for layer in layers(model, like))


def layers(model: onnx.ModelProto, like: Inputs | None = None) -> tuple[LayerShape, ...]:
    """All heavy layers with constant weights, in the order of the graph.

    Float and Q/DQ models are understood; shapes are those at batch 1, see `shapes`.

    Raises:
        FitError: the shape of a heavy layer cannot be inferred.
    """
    known = shapes(model, like=like)
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            found.append(_convolution(node, known))
        elif node.op_type in ("Gemm", "MatMul"):
            found.append(_product(node, known))
    return tuple(found)


def _convolution(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]]) -> LayerShape:
    source, weights, out = (_shape(node, known, n) for n in (*node.input[:2], node.output[0]))
    values = attributes(node)
    groups = int(values.get("group", 1))
    kernel = weights[2:] if len(weights) == 4 else (1, math.prod(weights[2:]))
    depthwise = groups > 1 and weights[1] == 1
    return LayerShape(
        kind="dwconv" if depthwise else "conv",
        kernel=(kernel[0], kernel[1]),
        stride=int((values.get("strides") or [1])[0]),
        cin=source[1],
        cout=weights[0],
        height=source[2] if len(source) == 4 else 1,
        width=source[-1],
        macs=math.prod(out[1:]) * math.prod(weights[1:]),
        name=node.name,
    )


def _product(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]]) -> LayerShape:
    source, out = (_shape(node, known, n) for n in (node.input[0], node.output[0]))
    return LayerShape(
        kind="gemm",
        kernel=(1, 1),
        stride=1,
        cin=source[-1],
        cout=out[-1],
        height=1,
        width=1,
        macs=math.prod(out[1:]) * source[-1],
        name=node.name,
    )


def _shape(
    node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]], name: str
) -> tuple[int, ...]:
    if name not in known:
        raise FitError(f"the shape of '{name}' at {node.op_type} '{node.name}' cannot be inferred")
    return known[name]


def _foreign(head: bytes) -> str:
    """What the first bytes say it is, empty when it may be ONNX."""
    if head[:4] == b"PK\x03\x04":
        return "a zip archive (a torch checkpoint or a Keras file?)"
    if head[4:8] == b"TFL3":
        return "a .tflite file"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "an HDF5 file (Keras weights?)"
    if head[:2] == b"\x80\x02" or head[:1] == b"\x80":
        return "a Python pickle"
    if head[:1] in (b"{", b"<") or head[8:9] == b"{":
        return "JSON, XML or safetensors"
    return "empty" if not head else ""
