from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from controller.compress.graph import model as graphs
from controller.compress.graph.normalize import normalized
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


def product_with_bias() -> onnx.ModelProto:
    net = Net((6,))
    x = net.op("MatMul", ["input", net.weights("w", (6, 4))], "product")
    return net.model(net.op("Add", [x, net.weights("b", (4,))], "y"))


def gemm_with_factors() -> onnx.ModelProto:
    net = Net((6,))
    names = ["input", net.weights("w", (6, 4)), net.weights("b", (4,))]
    return net.model(net.op("Gemm", names, "y", alpha=0.5, beta=3.0))


def identities() -> onnx.ModelProto:
    net = Net((3, 6, 6))
    x = net.op("Identity", ["input"], "same")
    x = net.op("Relu", [net.conv(x, "conv", 3, 2)], "relu")
    x = net.op("Dropout", [x], "drop")
    x = net.op("ReduceMean", [x], "mean", axes=[-1, -2], keepdims=1)
    return net.model(net.op("Flatten", [x], "y"))


def computed_shape() -> onnx.ModelProto:
    net = Net((3, 4, 4))
    x = net.op("Relu", [net.conv("input", "conv", 3, 2)], "relu")
    size = net.op("Shape", [x], "size")
    first = net.op("Gather", [size, net.constant("zero", np.int64(0))], "first", axis=0)
    first = net.op("Unsqueeze", [first, net.constant("axis", np.int64([0]))], "listed")
    shape = net.op("Concat", [first, net.constant("rest", np.int64([-1]))], "shape", axis=0)
    return net.model(net.op("Reshape", [x, shape], "y"))


def old_opset() -> onnx.ModelProto:
    net = Net((3, 6, 6))
    x = net.op("Relu", [net.conv("input", "conv", 3, 2)], "relu")
    x = net.op("GlobalAveragePool", [x], "mean")
    return net.model(net.op("Flatten", [x], "y"), opset=11)


@pytest.mark.parametrize(
    ("build", "operators"),
    [
        (
            nets.chain,
            "Conv Relu Conv Relu MaxPool Conv Relu GlobalAveragePool Flatten Gemm",
        ),
        (product_with_bias, "Gemm"),
        (gemm_with_factors, "Gemm"),
        (identities, "Conv Relu GlobalAveragePool Flatten"),
        (old_opset, "Conv Relu GlobalAveragePool Flatten"),
    ],
)
def test_one_form_and_the_same_function(
    build: Callable[[], onnx.ModelProto], operators: str
) -> None:
    model = build()
    before = model.SerializeToString()
    plain = normalized(model)
    assert model.SerializeToString() == before
    assert " ".join(node.op_type for node in plain.graph.node) == operators
    assert normalized(plain) == plain
    assert graphs.opset(plain) >= 13
    inputs = nets.images([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:])
    expected, found = (graphs.session(m).run(None, {"input": inputs})[0] for m in (model, plain))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_shape_computed_for_the_batchs_sake_becomes_constant() -> None:
    plain = normalized(computed_shape())
    node = next(n for n in plain.graph.node if n.op_type == "Reshape")
    constant = graphs.View(plain).constant(node.input[1])
    assert constant is not None
    assert constant.tolist() == [-1, 32]


def test_every_node_has_a_name_of_its_own() -> None:
    model = nets.chain()
    for node in model.graph.node:
        node.name = ""
    names = [node.name for node in normalized(model).graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
