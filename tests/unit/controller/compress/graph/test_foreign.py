"""Graphs that other people made: subgraphs, normalizations in the file, rows instead of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from controller.compress.graph import model as graphs
from controller.compress.graph.images import as_images
from controller.compress.graph.normalize import normalized
from controller.compress.graph.subgraphs import listed, outer_reads, rename_reads, used_names
from controller.compress.passes.onnx_tidy import answer, tidy

RANDOM = np.random.default_rng(1)


def built(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    output: int,
    weights: dict[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{n}" for n in range(output)])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def branching() -> onnx.ModelProto:
    """A branch that reads a renamed tensor, a weight, and has a branch inside."""

    def branch(name: str, inner: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["a", "b"])
        return helper.make_graph(inner, name, [], [out])

    deep = [
        branch(name, [helper.make_node(op, ["same", "w"], [f"{name}_y"])])
        for name, op in (("deep_a", "Add"), ("deep_b", "Sub"))
    ]
    nested = helper.make_node("If", ["yes"], ["then_y"], then_branch=deep[0], else_branch=deep[1])
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.ones((), bool))),
        helper.make_node(
            "If", ["yes"], ["y"], name="outer", then_branch=branch("then", [nested]),
            else_branch=branch("other", [helper.make_node("Mul", ["x", "w"], ["other_y"])]),
        ),
    ]  # fmt: skip
    unused = {"w": values(1, 4), "unused": values(3)}
    return built(nodes, ["n", 4], 2, unused)


def test_what_branches_read_is_kept_and_the_answer_stays() -> None:
    model, inputs = branching(), values(3, 4)
    assert outer_reads(model.graph.node[-1]) == {"same", "w", "yes", "x"}
    plain = normalized(tidy(model))
    onnx.checker.check_model(plain)
    assert {"same", "w"} <= used_names(plain.graph)
    assert "unused" not in {i.name for i in plain.graph.initializer}
    assert np.array_equal(answer(plain, inputs), answer(model, inputs))


def test_reads_inside_are_renamed_however_deep() -> None:
    node = branching().graph.node[-1]
    rename_reads(node, {"same": "other"})
    assert outer_reads(node) == {"other", "w", "yes", "x"}


def test_only_one_reader_is_alone_though_the_other_is_inside() -> None:
    view = graphs.View(branching())
    assert view.only_consumer("same") is not None
    assert view.only_consumer("x") is None


def test_nodes_are_listed_by_operator() -> None:
    names = [("Cast", "a"), ("Slice", "b"), ("Cast", "c"), ("Cast", "d")]
    nodes = [helper.make_node(op, ["x"], ["y"], name=name) for op, name in names]
    assert listed(nodes) == ("Cast 'a' and 2 more", "Slice 'b'")


@pytest.mark.parametrize("shared", [False, True])
def test_a_normalization_in_the_file_is_folded_unless_another_reads_before_it(
    shared: bool,
) -> None:
    numbers = {"g": values(6), "b": values(6), "m": values(6), "v": np.abs(values(6)) + 0.1}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", *numbers], ["n"], epsilon=1e-3),
        helper.make_node("Add", ["n", "c" if shared else "n"], ["y"]),
    ]
    model = built(nodes, ["n", 3, 5, 5], 4, {"w": values(6, 3, 2, 2), **numbers})
    plain, inputs = normalized(model), values(2, 3, 5, 5)
    assert ("BatchNormalization" in ops(plain)) == shared
    assert np.allclose(answer(plain, inputs), answer(model, inputs), atol=1e-5)


def test_division_by_a_constant_is_a_product_and_by_nothing_stays() -> None:
    nodes = [
        helper.make_node("Div", ["x", "six"], ["d"]),
        helper.make_node("Div", ["d", "odd"], ["y"]),
    ]
    weights = {"six": np.array(6.0, np.float32), "odd": np.array([1.0, 0.0], np.float32)}
    plain = normalized(built(nodes, ["n", 2], 2, weights))
    assert ops(plain) == ["Mul", "Div"]


def rows() -> onnx.ModelProto:
    """A residual of two convolutions over rows, pooling, a mean: one unfolding is enough."""
    nodes = [
        helper.make_node(
            "Conv", ["x", "w1", "b1"], ["c1"], name="one", pads=[2, 0], strides=[2], dilations=[2]
        ),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="two", pads=[1, 1], group=2),
        helper.make_node("Add", ["c2", "r1"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2], strides=[2]),
        helper.make_node("Concat", ["p", "p"], ["j"], axis=1),
        helper.make_node("ReduceMean", ["j"], ["y"], axes=[2], keepdims=0),
    ]  # fmt: skip
    weights = {"w1": values(8, 3, 3), "b1": values(8), "w2": values(8, 4, 3)}
    return built(nodes, ["n", 3, 33], 2, weights)


def test_rows_become_images_once_and_the_answer_stays() -> None:
    model = rows()
    made, count = as_images(model)
    onnx.checker.check_model(made)
    assert count == 3
    assert ops(made).count("Unsqueeze") == ops(made).count("Squeeze") == 1
    inputs = values(4, 3, 33)
    assert np.allclose(answer(made, inputs), answer(model, inputs), atol=1e-5)
    again, more = as_images(made)
    assert more == 0
    assert ops(again) == ops(made)


def test_shapes_that_are_free_in_the_file_are_those_of_a_sample() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Slice", ["all", "two", "four"], ["size"]),
        helper.make_node("Concat", ["head", "size"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], name="conv"),
    ]
    whole = {"two": np.array([2]), "four": np.array([4]), "head": np.array([-1, 3])}
    model = built(nodes, ["n", 3, "h", "w_"], 4, {"w": values(5, 3, 3, 3), **whole})
    (layer,) = graphs.layers(model, values(1, 3, 7, 9))
    assert (layer.height, layer.width, layer.macs) == (7, 9, 5 * 5 * 7 * 27)
