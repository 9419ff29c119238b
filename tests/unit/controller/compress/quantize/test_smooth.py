"""SmoothQuant: the formula by hand, the same answers, ranges that moved, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from controller.compress import execute
from controller.compress.base import Candidate, Form
from controller.compress.graph import model as graph_model
from controller.compress.graph.model import View
from controller.compress.passes.smooth import Smooth
from controller.compress.quantize import ranges, smooth, static
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net
from tests.unit.controller.compress.torch_side import context

Float = NDArray[np.float32]


def answers(model: onnx.ModelProto, inputs: Float) -> Float:
    return execute.outputs(model.SerializeToString(), "onnx", inputs)


def largest(model: onnx.ModelProto, tensor: str, inputs: Float, axis: int) -> Float:
    """``max|X_j|`` of a tensor, straight from a run."""
    found: list[Float] = []
    tapped = graph_model.with_outputs(model, [tensor])
    graph_model.run_batches(tapped, inputs, lambda _, values: found.append(values[0]), batch=64)
    value = np.concatenate(found)
    return np.asarray(np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != axis)))


def uneven(count: int, seed: int = 3) -> Float:
    """Factors over three decades, as outlier channels of transformers have."""
    return np.asarray(10.0 ** np.random.default_rng(seed).uniform(-1.5, 1.5, count), np.float32)


def tokens(kind: str) -> onnx.ModelProto:
    """Rows of 16 numbers, normalized, and two products that read them: [N, 6, 16] to [N, 6, 5]."""
    net = Net((6, 16), seed=2)
    scale, shift = net.constant("scale", uneven(16)), net.weights("shift", (16,), 0.3)
    if kind == "layer norm":
        normed = net.op("LayerNormalization", ["input", scale, shift], "norm", axis=-1)
    else:
        normed = net.op("Add", [net.op("Mul", ["input", scale], "norm"), shift], "shifted")
    left = net.op("MatMul", [normed, net.weights("left_w", (16, 8))], "left")
    right = net.op("MatMul", [normed, net.weights("right_w", (16, 8))], "right")
    gate = net.op("Mul", [left, net.op("Sigmoid", [right], "gate")], "gated")
    return net.model(net.op("MatMul", [gate, net.weights("out_w", (8, 5))], "out"), rank=3)


def preactivated() -> onnx.ModelProto:
    """A batch normalization and a ReLU before the convolution: [N, 3, 8, 8] to [N, 4, 6, 6]."""
    net = Net((3, 8, 8), seed=6)
    at = [net.constant("s", uneven(3)), net.weights("b", (3,), 0.2), net.weights("m", (3,), 0.1)]
    variance = net.constant("v", np.array([0.7, 1.1, 1.4], np.float32))
    normed = net.op("BatchNormalization", ["input", *at, variance], "norm")
    return net.model(net.conv(net.op("Relu", [normed], "relu"), "conv", 3, 4), rank=4)


def test_the_formula_by_hand() -> None:
    reached, met = np.array([16.0, 4.0, 1.0]), np.array([1.0, 1.0, 4.0])
    np.testing.assert_allclose(smooth.factors(reached, met), [4.0, 2.0, 0.5])
    np.testing.assert_allclose(smooth.factors(reached, met, 1.0), reached)
    np.testing.assert_allclose(smooth.factors(reached, met, 0.0), 1 / met)


def test_a_channel_that_nothing_reached_has_the_mean_of_the_others() -> None:
    found = smooth.factors(np.array([4.0, 0.0, 1.0]), np.ones(3))
    np.testing.assert_allclose(found, [2.0, np.sqrt(2.0), 1.0])
    np.testing.assert_array_equal(smooth.factors(np.zeros(2), np.ones(2)), [1.0, 1.0])
    unread = smooth.factors(np.ones(2), np.array([1.0, 0.0]))
    assert np.isfinite(unread).all()
    assert unread[1] > unread[0]


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], int, int]] = {
    # the model, the axis of the channels, and how many tensors are smoothed
    "layer norm": (lambda: tokens("layer norm"), -1, 1),
    "constants": (lambda: tokens("constants"), -1, 1),
    "batch norm": (preactivated, 1, 1),
    "layers": (nets.chain, 1, 3),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_the_function_stays_and_the_range_moves_as_the_formula_says(
    case: str, alpha: float
) -> None:
    make, axis, count = CASES[case]
    model = make()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    inputs = nets.images(shape, seed=11)
    made = smooth.smooth(model, inputs, alpha=alpha)
    expected, found = answers(model, inputs), answers(made.model, inputs)
    assert float(np.abs(expected - found).max() / np.abs(expected).max()) < 1e-5
    assert len(made.factors) == count
    for tensor, factor in made.factors.items():
        before = largest(model, tensor, inputs, axis % (len(shape) + 1)).astype(np.float64)
        after = largest(made.model, tensor, inputs, axis % (len(shape) + 1))
        np.testing.assert_allclose(after * factor, before, rtol=1e-4, atol=1e-6)
        met = (before**alpha / factor) ** (1 / (1 - alpha))  # max|W_j|, by the formula
        alive = before > 1e-5 * before.max()
        moved = before ** (1 - alpha) * met ** (1 - alpha)
        np.testing.assert_allclose(after[alive], moved[alive], rtol=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_any_positive_scales_and_weights_leave_the_function(seed: int) -> None:
    random = np.random.default_rng(seed)
    net = Net((5, 12), seed=seed)
    scale = net.constant("scale", np.exp(random.normal(0, 2, 12)).astype(np.float32))
    shift = net.constant("shift", random.normal(0, 1, 12).astype(np.float32))
    normed = net.op("LayerNormalization", ["input", scale, shift], "norm", axis=-1)
    weights = random.normal(0, 1, (12, 7)) * np.exp(random.normal(0, 2, (12, 1)))
    weights[random.integers(12)] = 0.0
    wide = net.constant("w", weights.astype(np.float32))
    model = net.model(net.op("MatMul", [normed, wide], "out"), rank=3)
    inputs = nets.images((5, 12), seed=seed)
    found = smooth.smooth(model, inputs, alpha=float(random.uniform(0, 1)))
    expected = answers(model, inputs)
    error = np.abs(expected - answers(found.model, inputs)).max() / np.abs(expected).max()
    assert error < 1e-5


def test_outliers_cost_int8_less_than_without() -> None:
    model, inputs = tokens("layer norm"), nets.images((6, 16), count=64, seed=5)

    def noise(source: onnx.ModelProto) -> float:
        made = static.quantize(source, ranges.collect(source, inputs), scheme="u8s8")
        return float(np.square(answers(made, inputs) - answers(model, inputs)).mean())

    assert noise(smooth.smooth(model, inputs).model) < 0.5 * noise(model)


def test_what_something_else_reads_is_left_alone_and_listed() -> None:
    net = Net((4, 8), seed=1)
    scale, shift = net.constant("scale", uneven(8)), net.weights("shift", (8,), 0.3)
    normed = net.op("LayerNormalization", ["input", scale, shift], "norm", axis=-1)
    out = net.op("MatMul", [normed, net.weights("w", (8, 8))], "out")
    model = net.model(net.op("Add", [out, normed], "sum"), rank=3)
    made = smooth.smooth(model, nets.images((4, 8)))
    assert (made.factors, made.left_alone) == ({}, ("norm > …: Add 'sum' reads it, too",))
    np.testing.assert_array_equal(View(made.model).constant("scale"), uneven(8))


def test_clips_and_concatenations_are_left_alone_and_listed() -> None:
    made = smooth.smooth(nets.residual(), nets.images((4, 13, 13)))
    assert made.factors == {}
    assert "deep > point: Clip 'deep_relu6' has an upper bound" in made.left_alone
    assert any("Concat 'concat' lets no factor through" in line for line in made.left_alone)


def test_the_pass_says_what_it_did_and_refuses_where_nothing_can_be_done() -> None:
    known = context()
    made = Smooth().run(Candidate(form=Form.ONNX, payload=preactivated()), known)
    numbers = made.evidence[-1].numbers
    assert numbers["tensors"] == 1
    assert numbers["golden_error"] < 1e-5
    net = Net((3, 8, 8))
    alone = net.model(net.op("Flatten", [net.conv("input", "conv", 3, 2)], "flat"))
    with pytest.raises(FitError, match="nothing can be smoothed"):
        Smooth().run(Candidate(form=Form.ONNX, payload=alone), known)
    with pytest.raises(FitError, match="alpha is between 0 and 1"):
        Smooth(alpha=1.5)
