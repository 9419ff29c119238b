"""One form for things that ONNX can say in several ways, so that later steps know one each.

Normalizations go into the convolutions before them, division by a constant becomes ``Mul``,
spatial ``ReduceMean`` becomes ``GlobalAveragePool`` (which runtimes have in integers),
``MatMul`` + bias becomes ``Gemm``, ``Gemm`` loses alpha and beta, identities go, every node has
a name, and the opset is at least 13 (per-channel ``DequantizeLinear``). Doing it twice changes
nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from controller.compress.graph.fold_norm import fold_norms
from controller.compress.graph.model import Names, View, attributes, copied, opset, shapes
from controller.compress.graph.subgraphs import drop_unread, outer_reads, used_names

OPSET = 17
_OLDEST_OPSET = 13
RESHAPE = "Reshape"
NORM = "BatchNormalization"
_GONE = ("Identity", "Dropout")


def normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in the one form; tensor names that remain are unchanged."""
    if opset(model) < _OLDEST_OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    result = copied(model)
    _drop_identities(result)
    _fold_norms(result)
    _multiply(result)
    _constant_reshapes(result)
    _pool_globally(result)
    _fuse_bias(result)
    _plain_gemm(result)
    _drop_unused(result)
    _name_nodes(result)
    return result


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put ``nodes`` in the place of a graph's nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _drop_identities(model: onnx.ModelProto) -> None:
    """Identity and Dropout (at inference) go, unless they join input and output or an output."""
    view = View(model)
    inner = {name for node in model.graph.node for name in outer_reads(node)}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        droppable = node.op_type in _GONE and node.output[0] not in view.outputs | inner
        if droppable and not any(name in view.consumers for name in node.output[1:]):
            renamed[node.output[0]] = renamed.get(source, source)
            continue
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        kept.append(node)
    replace_nodes(model.graph, kept)


def _fold_norms(model: onnx.ModelProto) -> None:
    gone = fold_norms(model)
    kept = [n for n in model.graph.node if n.op_type != NORM or n.input[0] not in gone]
    replace_nodes(model.graph, kept)


def _multiply(model: onnx.ModelProto) -> None:
    """Division by a constant is a product with its inverse: as hard-swish is written."""
    view, names = View(model), Names(model)
    for node in model.graph.node:
        divisor = view.constant(node.input[1]) if node.op_type == "Div" else None
        if divisor is None or divisor.dtype != np.float32 or not np.all(divisor):
            continue
        name = names.fresh(f"{node.output[0]}_inverse")
        inverse = np.asarray(1.0 / divisor.astype(np.float64), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(inverse, name))
        node.op_type = "Mul"
        node.input[1] = name


def _constant_reshapes(model: onnx.ModelProto) -> None:
    """A shape that is computed at run time, but only for the batch's sake, becomes a constant."""
    view, names = View(model), Names(model)
    if all(view.constant(n.input[1]) is not None for n in model.graph.node if n.op_type == RESHAPE):
        return
    one, two = shapes(model, batch=1), shapes(model, batch=2)
    for node in model.graph.node:
        if node.op_type != RESHAPE or view.constant(node.input[1]) is not None:
            continue
        first, second = one.get(node.output[0]), two.get(node.output[0])
        if first and second and first[1:] == second[1:] and second[0] == 2 * first[0]:
            name = names.fresh(f"{node.output[0]}_shape")
            target = np.array([-1, *first[1:]], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[1] = name


def _pool_globally(model: onnx.ModelProto) -> None:
    view, names, known = View(model), Names(model), shapes(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(known.get(node.input[0], ())) != 4:
            nodes.append(node)
            continue
        values = attributes(node)
        axes = values.get("axes")
        if axes is None and len(node.input) > 1:
            constant = view.constant(node.input[1])
            axes = None if constant is None else constant.tolist()
        if axes is None or {axis % 4 for axis in axes} != {2, 3}:
            nodes.append(node)
            continue
        keeps = bool(values.get("keepdims", 1))
        pooled = node.output[0] if keeps else names.fresh(f"{node.output[0]}_pooled")
        nodes.append(
            helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        )
        if not keeps:
            name = f"{node.name}_flat" if node.name else ""
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], name=name, axis=1))
    replace_nodes(model.graph, nodes)


def _fuse_bias(model: onnx.ModelProto) -> None:
    """``Add(MatMul(x, W), b)`` with x of rank 2 and constant W, b is ``Gemm(x, W, b)``."""
    view, known = View(model), shapes(model)
    fused: dict[str, onnx.NodeProto] = {}  # by the name of the product
    gone: set[str] = set()
    for node in model.graph.node:
        adder = view.only_consumer(node.output[0]) if node.op_type == "MatMul" else None
        if adder is None or adder.op_type != "Add":
            continue
        other = next((n for n in adder.input if n != node.output[0]), "")
        bias, weights = view.constant(other), view.constant(node.input[1])
        if bias is None or weights is None or weights.ndim != 2:
            continue
        if len(known.get(node.input[0], ())) == 2 and bias.shape == (weights.shape[1],):
            gemm = helper.make_node(
                "Gemm", [node.input[0], node.input[1], other], [adder.output[0]], name=node.name
            )
            fused[node.output[0]] = gemm
            gone.add(adder.output[0])
    nodes = [
        fused.get(node.output[0], node) for node in model.graph.node if node.output[0] not in gone
    ]
    replace_nodes(model.graph, nodes)


def _plain_gemm(model: onnx.ModelProto) -> None:
    """Alpha and beta of ``Gemm`` go into constant weights and bias."""
    view, names = View(model), Names(model)
    for node in model.graph.node:
        values = attributes(node)
        factors = (values.get("alpha", 1.0), values.get("beta", 1.0))
        if node.op_type != "Gemm" or factors == (1.0, 1.0):
            continue
        places = [(index, factors[index - 1]) for index in range(1, len(node.input))]
        constants = [view.constant(node.input[index]) for index, _ in places]
        if any(constant is None for constant in constants):
            continue
        for (index, factor), constant in zip(places, constants, strict=True):
            assert constant is not None
            scaled = names.fresh(f"{node.input[index]}_scaled")
            model.graph.initializer.append(
                numpy_helper.from_array((constant * factor).astype(np.float32), scaled)
            )
            node.input[index] = scaled
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
        del node.attribute[:]
        node.attribute.extend(kept)


def _drop_unused(model: onnx.ModelProto) -> None:
    graph = model.graph
    drop_unread(graph)
    used = used_names(graph)
    nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] in used]
    replace_nodes(graph, nodes)
    del graph.value_info[:]


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
