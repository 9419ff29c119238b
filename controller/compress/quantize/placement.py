"""Which tensors become integers, and which of them must share one scale.

A convolution or product with constant weights is integer when its input and output are. Its
ReLU or clip is part of it: nothing is quantized between the two, and the output's range does the
clipping. Pooling, reshaping and the like pass through; concatenation needs one scale for all its
parts. What is not known here stays float, and so does what was asked to be skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from controller.compress.graph.model import View, attributes, model_input

HEAVY = frozenset({"Conv", "Gemm", "MatMul"})
SAME_SCALE = frozenset(
    {
        "MaxPool",
        "AveragePool",
        "GlobalMaxPool",
        "ReduceMax",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
    }
)
OWN_SCALE = frozenset({"GlobalAveragePool", "Sigmoid", "LeakyRelu"})
ELEMENTWISE = frozenset({"Add", "Mul"})
READ = HEAVY | ELEMENTWISE
"""What a sigmoid is made integer for. One that ends the network gives scores, and a step of 1/256
would make many of them equal: a detector's threshold then has nothing to cut between.
"""
ACTIVATIONS = frozenset({"Relu", "Clip"})


@dataclass(slots=True, kw_only=True)
class Placement:
    """The answer: integer tensors by group, integer nodes and those that stay float."""

    groups: dict[str, str] = field(default_factory=dict)  # tensor -> name of its scale group
    nodes: set[str] = field(default_factory=set)  # names of integer nodes
    left_float: list[str] = field(default_factory=list)  # "Softmax 'name'"

    def add(self, tensor: str) -> None:
        """A tensor becomes integer, in a group of its own at first."""
        self.groups.setdefault(tensor, tensor)

    def join(self, one: str, other: str) -> None:
        """Both tensors share a scale."""
        keep, gone = self.groups[one], self.groups[other]
        for tensor, group in self.groups.items():
            if group == gone:
                self.groups[tensor] = keep


def place(
    model: onnx.ModelProto, *, skip: frozenset[str] = frozenset(), float_output: bool = True
) -> Placement:
    """Decide for a normalized model.

    Args:
        model: from ``graph.normalize``.
        skip: names of nodes that stay float.
        float_output: leave the output of a last product in float (onnxruntime's integer product
            can give floats); otherwise it is quantized like all others.
    """
    view, found = View(model), Placement()
    if skip.issuperset(n.name for n in model.graph.node if n.op_type in HEAVY):
        found.left_float = [_spoken(n) for n in model.graph.node if n.op_type in HEAVY]
        return found
    for node in model.graph.node:
        if node.name in skip or not _integer(node, view, found, float_output):
            if node.op_type != "Constant" and not _fused(node, view, found):
                found.left_float.append(_spoken(node))
            continue
        found.nodes.add(node.name)
    return found


def weighted(model: onnx.ModelProto) -> bool:
    """Whether a normalized model has anything that int8 would be worth it for."""
    view = View(model)
    return any(
        _constant_weights(node, view) if node.op_type in HEAVY else _table(node, view)
        for node in model.graph.node
        if node.op_type in HEAVY or node.op_type == "Gather"
    )


def end_of(node: onnx.NodeProto, view: View) -> str:
    """The tensor that a node's result is quantized as: after its ReLU or clip, if it has one."""
    follower = view.only_consumer(node.output[0])
    fusing = node.op_type in HEAVY or node.op_type in ELEMENTWISE
    if fusing and follower is not None and follower.op_type in ACTIVATIONS:
        return follower.output[0]
    return node.output[0]


def _integer(node: onnx.NodeProto, view: View, found: Placement, float_output: bool) -> bool:
    """Make a node's tensors integer if it can be; whether it was."""
    op = node.op_type
    if op in HEAVY and _constant_weights(node, view):
        return _heavy(node, view, found, float_output)
    if op == "Gather":
        return _lookup(node, view, found)
    moving = [name for name in node.input if name and view.constant(name) is None]
    if not moving or any(name not in found.groups for name in moving):
        return False
    output = end_of(node, view)
    if op in SAME_SCALE or op == "Concat":
        if op == "Concat" and len(moving) != len(node.input):
            return False
        if op == "AveragePool" and any(attributes(node).get("pads", [])):
            return False  # onnxruntime's integer kernel counts padding as zero points
        found.add(output)
        for name in moving:
            found.join(output, name)
        return True
    if _own_scale(node, view, output):
        found.add(output)
        return True
    if op in ACTIVATIONS and not _fused(node, view, found):
        found.add(output)
        return True
    return False


def _own_scale(node: onnx.NodeProto, view: View, output: str) -> bool:
    if node.op_type == "Sigmoid":
        return any(reader.op_type in READ for reader in view.consumers.get(output, ()))
    return node.op_type in OWN_SCALE or (node.op_type in ELEMENTWISE and len(node.input) == 2)


def _lookup(node: onnx.NodeProto, view: View, found: Placement) -> bool:
    """An embedding: rows of a constant table, which is stored in integers of the rows' own scale.

    Whole numbers come in, so nothing before it need be an integer tensor of ours.
    """
    if not _table(node, view):
        return False
    found.add(node.output[0])
    return True


def _table(node: onnx.NodeProto, view: View) -> bool:
    table = view.constant(node.input[0])
    rows = attributes(node).get("axis", 0) == 0 and view.constant(node.input[1]) is None
    return table is not None and table.dtype.name == "float32" and table.ndim == 2 and rows


def _heavy(node: onnx.NodeProto, view: View, found: Placement, float_output: bool) -> bool:
    output = end_of(node, view)
    found.add(node.input[0])
    last = node.op_type != "Conv" and output in view.outputs and output == node.output[0]
    if not (last and float_output):
        found.add(output)
    return True


def _constant_weights(node: onnx.NodeProto, view: View) -> bool:
    weights = view.constant(node.input[1])
    if weights is None or weights.dtype.name != "float32":
        return False
    if node.op_type == "Gemm":
        plain = attributes(node)
        unusual = plain.get("transA", 0) or {plain.get("alpha", 1.0), plain.get("beta", 1.0)} != {
            1.0
        }
        bias = view.constant(node.input[2]) if len(node.input) > 2 else None
        odd_bias = len(node.input) > 2 and (bias is None or bias.ndim != 1)
        return weights.ndim == 2 and not unusual and not odd_bias
    if node.op_type == "MatMul":
        return weights.ndim == 2
    biased = len(node.input) > 2 and node.input[2] != ""
    return not biased or view.constant(node.input[2]) is not None


def _fused(node: onnx.NodeProto, view: View, found: Placement) -> bool:
    """Whether a ReLU or clip is part of the integer node before it."""
    producer = view.producers.get(node.input[0]) if node.op_type in ACTIVATIONS else None
    if producer is None or producer.name not in found.nodes:
        return False
    return end_of(producer, view) == node.output[0]


def _spoken(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name}'"


def input_name(model: onnx.ModelProto) -> str:
    """Name of the model's one input."""
    return model_input(model).name
