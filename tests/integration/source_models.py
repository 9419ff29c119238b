"""Small sources of every kind that a fit has to take: tokens, a state, branches, free sizes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_RANDOM = np.random.default_rng(0)

TOKENS = '''
    import numpy as np

    name = "tokens"
    version = "1"
    input_name = "tokens"
    input_shape = (12,)
    labels = ["even", "odd"]
    operating_point = {"positive": "odd", "false_positive_rate_max": 0.05}
    recover = {"epochs": 1, "samples": 128, "batch": 32}

    def source():
        """Words are even or odd; the answer is which kind there is more of. Made by hand."""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(50, 8)
                self.conv = nn.Conv1d(8, 16, 3, padding=1)
                self.largest = nn.AdaptiveMaxPool1d(1)
                self.head = nn.Linear(32, 2)

            def forward(self, tokens):
                found = torch.relu(self.conv(self.embedding(tokens).transpose(1, 2)))
                joined = torch.cat([found.mean(dim=2), self.largest(found).flatten(1)], dim=1)
                return self.head(joined)

        torch.manual_seed(0)
        network = Net().eval()
        with torch.no_grad():
            parity = torch.arange(50) % 2
            network.embedding.weight[:, 0] = parity * 1.0
            network.embedding.weight[:, 1] = 1.0 - parity
            network.conv.weight.mul_(0.05)
            network.conv.weight[0, 0, 1] = network.conv.weight[1, 1, 1] = 1.0
            network.head.weight.zero_()
            network.head.weight[0, 1] = network.head.weight[1, 0] = 4.0
        return network

    def data(split):
        parts = {"calibration_a": (1, 64), "calibration_b": (2, 200), "test": (3, 200)}
        seed, count = {**parts, "train": (0, 256)}[split]
        tokens = np.random.default_rng(seed).integers(1, 50, (count, 12))
        return tokens, ((tokens % 2).sum(axis=1) > 6).astype(np.int64)

    def metric(outputs, answers):
        return float((outputs.argmax(axis=1) == answers).mean())
'''

FILE = """
    import numpy as np

    name = "file"
    version = "1"
    files = ["model.FORMAT"]
    input_shape = SHAPE

    def source():
        return "model.FORMAT"

    def data(split):
        seed, count = {"calibration_a": (1, 32), "calibration_b": (2, 48), "test": (3, 48)}.get(
            split, (0, 0)
        )
        if not count:
            return None
        random = np.random.default_rng(seed)
        return INPUTS, np.zeros(count)

    def metric(outputs, answers):
        return float(-np.abs(outputs).mean())
"""

STATEFUL = (
    '{"sound": random.normal(size=(count, 1, 3, 16)), "rate": np.full(count, 16_000), '
    '"state": random.normal(size=(count, 1, 1, 48))}'
)


def write(folder: Path, text: str, swaps: Mapping[str, str], model: bytes = b"") -> Path:
    """A workload's folder."""
    for old, new in swaps.items():
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.py").write_text(textwrap.dedent(text))
    if model:
        (folder / f"model.{swaps['FORMAT']}").write_bytes(model)
    return folder


def _output(name: str, rank: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [f"{name}_{axis}" for axis in range(rank)])


def _values(*shape: int) -> np.ndarray:
    return (_RANDOM.normal(size=shape) / np.sqrt(max(shape[-1], 1))).astype(np.float32)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Mapping[str, int],
    weights: Mapping[str, np.ndarray],
) -> bytes:
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(n, kind, shape) for n, kind, shape in inputs],
        [_output(name, rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def stateful() -> bytes:
    """Two convolutions, an LSTM with its state, and an ``If`` over the rate; two outputs.

    Both branches read tensors and weights from outside.
    """

    def branch(name: str, scale: str) -> onnx.GraphProto:
        made = [helper.make_node("Mul", ["answer", scale], [f"{name}_out"])]
        out = _output(f"{name}_out", 2)
        return helper.make_graph(made, name, [], [out])

    nodes = [
        helper.make_node("Conv", ["sound", "w1", "b1"], ["c1"], name="stem", pads=[1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="deep", strides=[2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Transpose", ["r2"], ["steps"], perm=[2, 0, 1]),
        helper.make_node(
            "LSTM", ["steps", "wl", "rl", "", "", "state", ""], ["", "last", "cell"],
            name="memory", hidden_size=48,
        ),
        helper.make_node("Squeeze", ["last", "zero"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w3"], ["answer"], name="head"),
        helper.make_node("Equal", ["rate", "hertz"], ["fast"]),
        helper.make_node(
            "If", ["fast"], ["output"], name="by_rate",
            then_branch=branch("then", "one"), else_branch=branch("other", "half"),
        ),
        helper.make_node("Identity", ["last"], ["next"]),
    ]  # fmt: skip
    weights = {
        "w1": _values(8, 3, 3), "b1": _values(8), "w2": _values(8, 8, 3),
        "wl": _values(1, 192, 8), "rl": _values(1, 192, 48), "w3": _values(48, 2),
        "zero": np.array([0]), "hertz": np.array(16_000),
        "one": np.array(1.0, np.float32), "half": np.array(0.5, np.float32),
    }  # fmt: skip
    inputs = [("sound", FLOAT, ["n", 3, 16]), ("state", FLOAT, [1, "n", 48]), ("rate", INT64, [])]
    return _model(nodes, inputs, {"output": 2, "next": 3}, weights)


def branches_only() -> bytes:
    """Everything inside one ``If``: nothing that a pass could take hold of."""

    def branch(name: str) -> onnx.GraphProto:
        weights = [numpy_helper.from_array(_values(16, 2), f"{name}_w")]
        made = [helper.make_node("MatMul", ["state2", f"{name}_w"], [f"{name}_out"])]
        out = _output(f"{name}_out", 2)
        return helper.make_graph(made, name, [], [out], weights)

    nodes = [
        helper.make_node("ReduceMean", ["sound"], ["state1"], axes=[1], keepdims=0),
        helper.make_node("Add", ["state1", "half"], ["state2"]),
        helper.make_node("ReduceSum", ["state"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "half"], ["much"]),
        helper.make_node("Equal", ["rate", "hertz"], ["fast"]),
        helper.make_node("And", ["much", "fast"], ["both"]),
        helper.make_node(
            "If", ["both"], ["output"], name="all",
            then_branch=branch("then"), else_branch=branch("other"),
        ),
    ]  # fmt: skip
    weights = {"hertz": np.array(16_000), "half": np.array(0.5, np.float32)}
    inputs = [("sound", FLOAT, ["n", 3, 16]), ("state", FLOAT, [1, "n", 48]), ("rate", INT64, [])]
    return _model(nodes, inputs, {"output": 2}, weights)


def constant_weights() -> bytes:
    """Weights in Constant nodes, normalizations, hard-swish, free height and width."""
    values = {
        "w1": _values(8, 3, 3, 3), "w2": _values(8, 8, 1, 1), "w3": _values(8, 4),
        "three": np.array(3.0, np.float32), "six": np.array(6.0, np.float32),
        "none": np.array(0.0, np.float32), "shape": np.array([-1, 8]),
        "g": _values(8) + 1, "b": _values(8), "m": _values(8), "v": _values(8) ** 2 + 0.5,
    }  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v))
        for n, v in values.items()
    ]
    nodes += [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="stem", strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"]),
        helper.make_node("Add", ["n1", "three"], ["a1"]),
        helper.make_node("Clip", ["a1", "none", "six"], ["k1"]),
        helper.make_node("Mul", ["n1", "k1"], ["m1"]),
        helper.make_node("Div", ["m1", "six"], ["h1"]),
        helper.make_node("Conv", ["h1", "w2"], ["c2"], name="deep"),
        helper.make_node("HardSigmoid", ["c2"], ["s2"], name="gate"),
        helper.make_node("Mul", ["c2", "s2"], ["m2"]),
        helper.make_node("GlobalAveragePool", ["m2"], ["p2"]),
        helper.make_node("Reshape", ["p2", "shape"], ["f2"]),
        helper.make_node("MatMul", ["f2", "w3"], ["output"], name="head"),
    ]
    return _model(nodes, [("x", FLOAT, ["n", 3, "h", "w"])], {"output": 2}, {})
