"""Clean ONNX models: folded constants, no metadata of the exporting machine, a free batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import samples
from controller.catalog.foreign import translated
from controller.compress.graph.subgraphs import drop_unread
from controller.errors import FitError

if TYPE_CHECKING:
    import onnx

IR_VERSION = 8  # of opset 17; newer ones are refused by old vendor runtimes
MAX_OPSET_FOR_IR = 17


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with constants folded, identities of constants gone and metadata stripped."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _constants_to_initializers(copy.graph)
    _drop_identities(copy.graph)
    _drop_unused(copy.graph)
    _strip(copy)
    if any(o.domain == "" and o.version <= MAX_OPSET_FOR_IR for o in copy.opset_import):
        copy.ir_version = min(copy.ir_version, IR_VERSION)
    return copy


def free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a free first axis."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    initializers = {i.name for i in copy.graph.initializer}
    for value in (*copy.graph.input, *copy.graph.output):
        shape = value.type.tensor_type.shape
        if value.name not in initializers and len(shape.dim) > 0:
            shape.dim[0].Clear()
            shape.dim[0].dim_param = "batch"
    del copy.graph.value_info[:]
    return copy


def sized(model: onnx.ModelProto, inputs: NDArray[Any]) -> onnx.ModelProto:
    """The model with the free sizes of its one input as in ``inputs`` [N, …]; the batch stays.

    A model with several inputs, with another rank or without a free size is given back as it is.
    """
    import onnx

    known = {item.name for item in model.graph.initializer}
    fed = [i for i, value in enumerate(model.graph.input) if value.name not in known]
    if len(fed) != 1 or samples.names(inputs):
        return model
    dims = model.graph.input[fed[0]].type.tensor_type.shape.dim
    free = [axis for axis in range(1, len(dims)) if not dims[axis].HasField("dim_value")]
    if not free or len(dims) != inputs.ndim:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for axis in free:
        dim = copy.graph.input[fed[0]].type.tensor_type.shape.dim[axis]
        dim.dim_value = inputs.shape[axis]  # takes the place of a name
    del copy.graph.value_info[:]
    return copy


def answers_batches(model: onnx.ModelProto, inputs: NDArray[Any]) -> bool:
    """Whether a batch gives the same as its samples one by one."""
    try:
        together = answer(model, inputs)
        alone = np.concatenate([answer(model, inputs[i : i + 1]) for i in range(len(inputs))])
    except FitError:
        return False
    same = together.shape == alone.shape
    return same and bool(np.allclose(together, alone, atol=1e-3, rtol=1e-3))


def answer(model: onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """First output for real ``inputs`` [N, …], in one run (one each with several), one thread.

    Raises:
        FitError: onnxruntime refuses the model or the inputs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a refusal is raised below; it need not be logged as well
    with translated(FitError, "onnxruntime refuses the model"):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        entries = session.get_inputs()
        size = 1 if samples.names(inputs) else len(inputs)
        parts: list[Any] = []
        for start in range(0, len(inputs), max(size, 1)):
            part = inputs[start : start + size]
            parts.append(samples.rows(session.run(None, samples.feed(entries, part))[0], size))
    return np.concatenate(parts).astype(np.float32)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Weights in Constant nodes become initializers, where every other tool looks for them."""
    kept = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _replace_nodes(graph, kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    import onnx

    if node.op_type != "Constant" or node.domain:
        return None
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            copy = onnx.TensorProto()
            copy.CopyFrom(value)
            return copy
        if attribute.name in ("value_float", "value_floats"):
            return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def _drop_identities(graph: onnx.GraphProto) -> None:
    import onnx

    constants = {i.name: i for i in graph.initializer}
    kept = []
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        plain = node.op_type == "Identity" and not node.domain and node.output[0] not in outputs
        if plain and node.input[0] in constants:
            copy = onnx.TensorProto()
            copy.CopyFrom(constants[node.input[0]])
            copy.name = node.output[0]
            graph.initializer.append(copy)
            constants[copy.name] = copy
        else:
            kept.append(node)
    _replace_nodes(graph, kept)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Initializers that nothing reads, subgraphs included."""
    named = {i.name for i in graph.initializer}  # old files list them among the inputs
    drop_unread(graph)
    listed = [i for i in graph.input if i.name not in named]
    del graph.input[:]
    graph.input.extend(listed)


def _strip(model: onnx.ModelProto) -> None:
    model.doc_string = ""
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "fitment", ""
    graph = model.graph
    values: tuple[Any, ...] = (
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for item in (graph, *values):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
