"""From an ONNX graph that computes both answers to one that stops at the first where it may.

The straight graph ends with ``Where(max(softmax(exit)) > threshold, exit, final)``. What only
``final`` needs, and the ``Where``, moves into the else branch of an ``If`` whose condition is that
every input of the batch is confident. So one input stops early, a batch does when all of it does,
and the answers are the same either way. Float and Q/DQ graphs are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from controller.compress.graph import model as graphs
from controller.errors import FitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Straight:
    """Names of the tensors that matter in a straight graph."""

    output: str
    confident: str  # bool [B, 1]
    early: str  # the exit's logits [B, C]
    final: str  # the whole network's
    threshold: str  # initializer


def read(model: onnx.ModelProto) -> Straight:
    """Find exit, rest and threshold.

    Raises:
        FitError: the graph does not end with the selection of an exit.
    """
    view = graphs.View(model)
    output = model.graph.output[0].name
    where = view.producers.get(output)
    greater = view.producers.get(where.input[0]) if where is not None and where.input else None
    if (
        where is None
        or greater is None
        or (where.op_type, greater.op_type) != ("Where", "Greater")
        or view.constant(greater.input[1]) is None
    ):
        raise FitError("the graph does not end with the selection of an exit")
    return Straight(
        output=output,
        confident=where.input[0],
        early=where.input[1],
        final=where.input[2],
        threshold=greater.input[1],
    )


def both_answers(
    model: onnx.ModelProto, inputs: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The exit's and the whole network's logits, each [N, C], of a straight graph."""
    names = read(model)
    parts: list[list[NDArray[Any]]] = []
    graphs.run_batches(
        graphs.with_outputs(model, [names.early, names.final]),
        inputs,
        lambda _names, values: parts.append(values),
        batch=256,
    )
    early, final = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return early, final


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest softmax probability of each row, [N]."""
    raised: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    return 1.0 / raised.sum(axis=1)  # type: ignore[no-any-return]


def branched(model: onnx.ModelProto, threshold: float) -> onnx.ModelProto:
    """The graph with an ``If`` around what an early answer does not need.

    Raises:
        FitError: the graph is no straight one, or nothing would be skipped.
    """
    names = read(model)
    made = graphs.copied(model)
    graph = made.graph
    _set_threshold(graph, names.threshold, threshold)
    first = _ancestors(graph, [names.confident])
    rest = [n for n in graph.node if not set(n.output) & first]
    if not any(n.op_type in graphs.HEAVY for n in rest):
        raise FitError("no convolution or matrix product comes after the exit")
    kept = [n for n in graph.node if set(n.output) & first]
    named = graphs.Names(made)
    rest = _own_dequantizers(graph, kept, rest, named)
    moved = _moved_initializers(graph, kept, rest)
    condition, nodes = _all_confident(names, named)
    then, late = named.fresh("answer_early"), named.fresh("answer_late")
    for node in rest:  # the else branch must not define a name of the outer graph's output
        for index, name in enumerate(node.output):
            if name == names.output:
                node.output[index] = late
    early_branch = helper.make_graph(
        [helper.make_node("Identity", [names.early], [then])], "early", [], [_value(graph, then)]
    )
    late_branch = helper.make_graph(rest, "late", [], [_value(graph, late)], initializer=moved)
    split = helper.make_node(
        "If", [condition], [names.output], then_branch=early_branch, else_branch=late_branch
    )
    copies = [*kept, *nodes, split]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    onnx.checker.check_model(made)
    return made


def _value(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto()
    value.CopyFrom(graph.output[0])
    value.name = name
    return value


def _set_threshold(graph: onnx.GraphProto, name: str, threshold: float) -> None:
    for item in graph.initializer:
        if item.name == name:
            shape = numpy_helper.to_array(item).shape
            item.CopyFrom(numpy_helper.from_array(np.full(shape, threshold, np.float32), name))


def _ancestors(graph: onnx.GraphProto, wanted: list[str]) -> set[str]:
    """Names of all tensors that ``wanted`` depend on, themselves included."""
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    open_ = list(wanted)
    while open_:
        name = open_.pop()
        if name in found:
            continue
        found.add(name)
        if name in producers:
            open_ += [n for n in producers[name].input if n]
    return found


def _own_dequantizers(
    graph: onnx.GraphProto,
    kept: list[onnx.NodeProto],
    rest: list[onnx.NodeProto],
    named: graphs.Names,
) -> list[onnx.NodeProto]:
    """The rest with a dequantization of its own for every integer tensor that it reads as float.

    Runtimes fuse a layer with the dequantization before it only within one graph: otherwise what
    comes first after the exit computes in float, on the largest tensor of the branch.
    """
    read = {name for node in rest for name in node.input}
    initializers = {i.name: i for i in graph.initializer}
    own: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for node in kept:
        if node.op_type != "DequantizeLinear" or node.output[0] not in read:
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.output[0] = renamed[node.output[0]] = named.fresh(f"{node.output[0]}_late")
        copy.name = named.fresh(f"{node.name}_late")
        for index, name in enumerate(node.input):
            if name in initializers:
                value = onnx.TensorProto.FromString(initializers[name].SerializeToString())
                value.name = copy.input[index] = named.fresh(f"{name}_late")
                graph.initializer.append(value)
        own.append(copy)
    for node in rest:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    return [*own, *rest]


def _moved_initializers(
    graph: onnx.GraphProto, kept: list[onnx.NodeProto], rest: list[onnx.NodeProto]
) -> list[onnx.TensorProto]:
    """Weights that only the rest reads go with it, where the runtime's fusions look for them."""
    outside = {name for node in kept for name in node.input}
    inside = {name for node in rest for name in node.input} - outside
    moved = [i for i in graph.initializer if i.name in inside]
    stay = [i for i in graph.initializer if i.name not in inside]
    copies = [onnx.TensorProto.FromString(i.SerializeToString()) for i in moved]
    left = [onnx.TensorProto.FromString(i.SerializeToString()) for i in stay]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return copies


def _all_confident(names: Straight, named: graphs.Names) -> tuple[str, list[onnx.NodeProto]]:
    """A scalar bool: whether every input of the batch is confident."""
    number, least, condition = (
        named.fresh(f"exit_{part}") for part in ("number", "least", "condition")
    )
    nodes = [
        helper.make_node("Cast", [names.confident], [number], to=TensorProto.INT32),
        helper.make_node("ReduceMin", [number], [least], keepdims=0),
        helper.make_node("Cast", [least], [condition], to=TensorProto.BOOL),
    ]
    return condition, nodes
