"""Few-bit weights: compensation does what its formula says, and files stay what runtimes run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from controller.compress import execute
from controller.compress.graph import model as graphs
from controller.compress.quantize import gptq, numbers, ranges, reconstruct, rows, static
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


def correlated(count: int = 2000, columns: int = 24) -> np.ndarray:
    random = np.random.default_rng(3)
    mixed = random.normal(size=(count, 6)) @ random.normal(size=(6, columns))
    return mixed + 0.1 * random.normal(size=(count, columns))


def harm(x: np.ndarray, weights: np.ndarray, found: np.ndarray) -> float:
    return float((((weights - found) @ x.T) ** 2).sum())


def test_without_correlation_it_is_plain_rounding() -> None:
    weights = np.random.default_rng(1).normal(size=(4, 10))
    scale = np.abs(weights).max(axis=1) / 7
    levels = gptq.round_columns(weights, np.eye(10), scale, 4)
    assert np.array_equal(levels, np.rint(weights / scale[:, None]))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_compensation_keeps_outputs_that_rounding_moves(bits: int) -> None:
    x = correlated()
    weights = np.random.default_rng(2).normal(size=(8, x.shape[1]))
    hessian = x.T @ x
    limit = 2 ** (bits - 1) - 1
    scale = gptq.best_scale(weights, hessian, bits)
    levels = gptq.round_columns(weights, hessian, scale, bits)
    assert np.abs(levels).max() <= limit
    assert np.array_equal(levels, np.rint(levels))
    plain = np.clip(np.rint(weights / scale[:, None]), -limit, limit)
    ours = harm(x, weights, levels * scale[:, None])
    assert ours < 0.5 * harm(x, weights, plain * scale[:, None])


def test_a_scale_is_never_worse_than_the_span_of_the_weights() -> None:
    x = correlated()
    weights = np.random.default_rng(4).standard_t(2, size=(8, x.shape[1]))  # with outliers
    hessian = x.T @ x
    widest = np.abs(weights).max(axis=1) / 7
    chosen = gptq.best_scale(weights, hessian, 4)
    assert (chosen <= widest * (1 + 1e-6)).all()
    assert (chosen < 0.9 * widest).any()


def test_inputs_that_never_vary_do_no_harm() -> None:
    x = correlated()
    x[:, 5] = 0.0
    weights = np.random.default_rng(5).normal(size=(3, x.shape[1]))
    levels = gptq.round_columns(weights, x.T @ x, np.full(3, 0.4), 4)
    assert np.isfinite(levels).all()


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2]},
    {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
    {"group": 2},
    {"group": 4},
    {"pads": [0, 1, 2, 0]},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_the_unfolded_input_times_the_weights_is_the_convolution(options: dict[str, Any]) -> None:
    net = Net((4, 9, 9))
    model = net.model(net.conv("input", "conv", 4, 8, **options), rank=4)
    images = nets.images((4, 9, 9), count=3)
    (node,) = model.graph.node
    weights = numpy_helper.to_array(model.graph.initializer[0])
    bias = numpy_helper.to_array(model.graph.initializer[1])
    found_rows = rows.unfold(node, images, weights.shape, 10**6, np.random.default_rng(0))
    share = 8 // len(found_rows)
    parts = [
        x @ weights[g * share : (g + 1) * share].reshape(share, -1).T
        for g, x in enumerate(found_rows)
    ]
    found = np.concatenate(parts, axis=1) + bias
    expected = execute.outputs(model.SerializeToString(), "onnx", images)
    expected = np.moveaxis(expected, 1, -1).reshape(-1, 8)
    # Windows come in a chosen order: as sets of rows the two are equal.
    order, other = np.lexsort(found.T), np.lexsort(expected.T)
    assert np.allclose(found[order], expected[other], atol=1e-4)


@pytest.mark.parametrize("rounding", reconstruct.ROUNDINGS)
@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
@pytest.mark.parametrize(
    ("build", "shape"), [(nets.chain, (3, 12, 12)), (nets.residual, (4, 13, 13))]
)
def test_a_whole_network(build: Any, shape: tuple[int, ...], scheme: str, rounding: str) -> None:
    inputs = nets.images(shape, count=64)
    model = build()
    quantized = static.quantize(model, ranges.collect(model, inputs), scheme=scheme)
    whole = reconstruct.edges(quantized)
    made = reconstruct.reconstruct(model, quantized, inputs, bits=4, whole=whole, rounding=rounding)
    content = made.model.SerializeToString()
    assert execute.integer_coverage(content, "onnx") == execute.integer_coverage(
        quantized.SerializeToString(), "onnx"
    )
    levels = _levels(made.model)
    assert set(made.sqnr_db) == set(levels) - whole
    assert all(levels[name] <= 7 for name in made.sqnr_db)
    assert all(levels[name] > 7 for name in whole)
    reference = execute.outputs(model.SerializeToString(), "onnx", inputs)
    found = execute.outputs(content, "onnx", inputs)
    assert (reference.argmax(1) == found.argmax(1)).mean() > 0.85
    again = reconstruct.reconstruct(
        model, quantized, inputs, bits=4, whole=whole, rounding=rounding
    )
    assert again.model.SerializeToString() == content


@pytest.mark.parametrize("rounding", ["gptq", "both"])
def test_scales_that_are_powers_of_two_stay_so(rounding: str) -> None:
    model, inputs = nets.chain(), nets.images((3, 12, 12), count=32)
    rules = numbers.Rules(power_of_two=True)
    found = ranges.collect(model, inputs)
    quantized = static.quantize(model, found, scheme="u8s8", rules=rules)
    made = reconstruct.reconstruct(model, quantized, inputs, bits=4, rounding=rounding)
    view = graphs.View(made.model)
    for node in made.model.graph.node:
        if node.op_type == "DequantizeLinear":
            scale = view.constant(node.input[1])
            assert scale is not None
            assert (np.frexp(scale)[0] == 0.5).all()


def test_a_rounding_that_is_not_known_is_refused() -> None:
    model, inputs = nets.chain(), nets.images((3, 12, 12), count=8)
    quantized = static.quantize(model, ranges.collect(model, inputs), scheme="u8s8")
    with pytest.raises(
        FitError, match="unknown rounding 'up', known: gptq, adaround, both, nearest"
    ):
        reconstruct.reconstruct(model, quantized, inputs, bits=4, rounding="up")


def _levels(model: onnx.ModelProto) -> dict[str, int]:
    """The largest integer weight of each layer."""
    view = graphs.View(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            values = view.constant(view.producers[node.input[1]].input[0])
            assert values is not None
            found[node.name] = int(np.abs(values.astype(int)).max())
    return found
