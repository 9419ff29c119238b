"""Cross-layer equalization: the formula by hand, the same answers, and what it must not touch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from controller.compress import execute
from controller.compress.graph.model import View
from controller.compress.quantize import equalize, numbers, ranges, static
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


def answers(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return execute.outputs(model.SerializeToString(), "onnx", inputs)


def weights(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    (node,) = [n for n in model.graph.node if n.name == name]
    value = View(model).constant(node.input[1])
    assert value is not None
    return value


def uneven(model: onnx.ModelProto, names: set[str], decades: float = 1.5) -> onnx.ModelProto:
    """Scale output channels of some layers by up to ``10^decades`` either way."""
    random = np.random.default_rng(5)
    result = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = {item.name: item for item in result.graph.initializer}
    for node in result.graph.node:
        if node.name in names:
            factor = None
            for name in node.input[1:3]:
                values = numpy_helper.to_array(tensors[name])
                if factor is None:
                    factor = 10.0 ** random.uniform(-decades, decades, len(values))
                scaled = values * factor.reshape(-1, *[1] * (values.ndim - 1))
                tensors[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
    return result


def separable(clipped: float | None = None) -> onnx.ModelProto:
    """Point-wise and depthwise layers in turn, ReLU or clip between; [N, 3, 12, 12] to [N, 5]."""
    net = Net((3, 12, 12), seed=4)

    def active(x: str, name: str) -> str:
        if clipped is None:
            return net.op("Relu", [x], name)
        bounds = [net.constant(f"{name}_{i}", np.float32(v)) for i, v in enumerate((0, clipped))]
        return net.op("Clip", [x, *bounds], name)

    x = active(net.conv("input", "stem", 3, 8), "stem_act")
    x = active(net.conv(x, "deep0", 8, 8, group=8), "deep0_act")
    x = active(net.conv(x, "point0", 8, 16, 1), "point0_act")
    x = active(net.conv(x, "deep1", 16, 16, group=16, strides=[2, 2]), "deep1_act")
    x = active(net.conv(x, "point1", 16, 16, 1), "point1_act")
    x = net.op("Flatten", [net.op("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    return net.model(net.gemm(x, "gemm", 16, 5))


def test_two_layers_by_hand() -> None:
    net = Net((1, 2, 2))
    first = net.constant("w1", np.float32([[[[4.0]]], [[[-1.0]]]]))
    bias = net.constant("b1", np.float32([8.0, 3.0]))
    x = net.op("Conv", ["input", first, bias], "one", kernel_shape=[1, 1])
    x = net.op("Relu", [x], "relu")
    second = net.constant("w2", np.float32([[[[1.0]], [[4.0]]], [[[-0.5]], [[2.0]]]]))
    model = net.model(net.op("Conv", [x, second], "two", kernel_shape=[1, 1]), rank=4)
    made = equalize.equalize(model)
    # r1 = (4, 1), r2 = (1, 4): s = (2, 1/2), and all ranges become 2.
    assert weights(made.model, "one").ravel() == pytest.approx([2.0, -2.0])
    assert weights(made.model, "two").reshape(2, 2) == pytest.approx(
        np.array([[2.0, 2.0], [-1.0, 1.0]])
    )
    (node,) = [n for n in made.model.graph.node if n.name == "one"]
    biases = View(made.model).constant(node.input[2])
    assert biases == pytest.approx(np.array([4.0, 6.0]))
    assert made.seams == ("one > two",)
    assert made.largest_factor == pytest.approx(2.0)


NETS: list[tuple[Callable[[], onnx.ModelProto], tuple[int, ...], set[str]]] = [
    (nets.chain, (3, 12, 12), {"conv0", "conv1", "conv2"}),
    (nets.residual, (4, 13, 13), {"stem", "deep", "side"}),
    (separable, (3, 12, 12), {"stem", "deep0", "point0", "deep1", "point1"}),
]


@pytest.mark.parametrize(("build", "shape", "names"), NETS)
def test_the_function_is_the_same(
    build: Callable[[], onnx.ModelProto], shape: tuple[int, ...], names: set[str]
) -> None:
    inputs = nets.images(shape, count=16)
    for model in (build(), uneven(build(), names)):
        before, after = answers(model, inputs), answers(equalize.equalize(model).model, inputs)
        assert np.abs(before - after).max() <= 1e-5 * max(1.0, float(np.abs(before).max()))


def test_a_sum_shares_factors_among_all_of_its_layers() -> None:
    net = Net((4, 8, 8), seed=3)
    x = net.op("Relu", [net.conv("input", "stem", 4, 8)], "stem_relu")
    y = net.op("Relu", [net.conv(x, "one", 8, 8)], "one_relu")
    x = net.op("Relu", [net.op("Add", [x, net.conv(y, "two", 8, 8)], "add")], "add_relu")
    x = net.op("Flatten", [net.conv(x, "end", 8, 4)], "flat", axis=1)
    model = uneven(net.model(net.gemm(x, "gemm", 4 * 64, 3)), {"stem", "one"})
    made = equalize.equalize(model)
    inputs = nets.images((4, 8, 8))
    before, after = answers(model, inputs), answers(made.model, inputs)
    assert np.allclose(before, after, rtol=1e-5, atol=1e-5 * float(np.abs(before).max()))
    assert made.seams == ("stem, two > one, end", "one > two", "end > gemm")
    assert made.left_alone == ("gemm > …: it is an output of the model",)
    ranges_of = np.abs(weights(made.model, "one")).max(axis=(1, 2, 3))
    reads = np.abs(weights(made.model, "two")).max(axis=(0, 2, 3))
    assert ranges_of == pytest.approx(reads, rel=1e-3)


def test_what_it_cannot_treat_exactly_is_left_alone_and_named() -> None:
    net = Net((4, 8, 8), seed=3)
    x = net.op("Relu", [net.conv("input", "stem", 4, 8)], "stem_relu")
    gate = net.op("Sigmoid", [net.conv(x, "side", 8, 8)], "gate")
    x = net.op("Mul", [net.conv(x, "main", 8, 8), gate], "mul")
    x = net.op("Concat", [x, net.conv(x, "last", 8, 4)], "concat", axis=1)
    model = net.model(x, rank=4)
    made = equalize.equalize(model)
    assert made.seams == ("stem > side, main",)  # both readers are multiplied: exact
    reasons = dict(line.split(": ", 1) for line in made.left_alone)
    assert reasons["side > …"] == "Sigmoid 'gate' lets no factor through"
    assert reasons["main > …"] == "Mul 'mul' lets no factor through"
    for name in ("last",):
        assert np.array_equal(weights(made.model, name), weights(model, name))
    inputs = nets.images((4, 8, 8))
    assert np.allclose(answers(model, inputs), answers(made.model, inputs), atol=1e-5)


def test_a_clip_that_bites_is_kept_and_one_that_does_not_becomes_a_relu() -> None:
    inputs = nets.images((3, 12, 12))
    biting = separable(clipped=0.3)
    for made in (equalize.equalize(biting), equalize.equalize(biting, inputs)):
        assert any("'stem_act' has an upper bound that bites" in line for line in made.left_alone)
        assert np.abs(answers(biting, inputs) - answers(made.model, inputs)).max() < 1e-5
    loose = separable(clipped=600.0)
    assert equalize.equalize(loose).unclipped == ()  # nothing says that it does not bite
    made = equalize.equalize(loose, inputs)
    assert len(made.unclipped) == 5
    assert {n.op_type for n in made.model.graph.node} == {
        "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    }  # fmt: skip
    assert np.allclose(answers(loose, inputs), answers(made.model, inputs), atol=1e-5)


def test_dead_channels_keep_their_scale() -> None:
    out = np.array([4.0, 0.0, 1.0])
    read = np.array([1.0, 5.0, 0.0])
    assert equalize.factors(out, read) == pytest.approx([2.0, 1.0, 1.0])
    model = nets.chain()
    item = next(i for i in model.graph.initializer if i.name == "conv0_w")
    values = numpy_helper.to_array(item).copy()
    values[2] = 0.0
    item.CopyFrom(numpy_helper.from_array(values, item.name))
    made = equalize.equalize(model)
    inputs = nets.images((3, 12, 12))
    assert np.allclose(answers(model, inputs), answers(made.model, inputs), atol=1e-5)


def test_tensors_that_a_subgraph_reads_stay() -> None:
    net = Net((4, 8, 8), seed=3)
    x = net.op("Relu", [net.conv("input", "stem", 4, 8)], "stem_relu")
    yes = net.constant("yes", np.array([1], bool).reshape(()))
    value = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(op, ["stem_relu"], ["inner"])], op, [], [value])
        for op in ("Exp", "Neg")
    ]
    x = net.op("Add", [net.conv(x, "main", 8, 8), net.op("If", [yes], "if", then_branch=branches[0],
               else_branch=branches[1])], "sum")  # fmt: skip
    model = net.model(x, rank=4)
    made = equalize.equalize(model)
    assert made.seams == ()
    assert any("a subgraph of If 'if' reads it" in line for line in made.left_alone)
    inputs = nets.images((4, 8, 8))
    assert np.array_equal(answers(model, inputs), answers(made.model, inputs))


def test_it_saves_a_depthwise_net_from_one_scale_for_all_channels() -> None:
    model = uneven(separable(), {"stem", "deep0", "point0", "deep1"})
    inputs = nets.images((3, 12, 12), count=128)
    reference = answers(model, inputs)

    one = numbers.Rules(per_channel=False)

    def noise_db(source: onnx.ModelProto) -> float:
        found = ranges.collect(source, inputs[:64])
        quantized = static.quantize(source, found, scheme="u8s8", rules=one)
        wrong = answers(quantized, inputs) - reference
        return float(10 * np.log10((reference**2).sum() / (wrong**2).sum()))

    before, after = noise_db(model), noise_db(equalize.equalize(model, inputs).model)
    assert after > before + 6
    assert after > 25
