"""What is trained is what the file computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from controller.compress import evidence, execute
from controller.compress.graph import model as graphs
from controller.compress.qat.network import GraphNet
from controller.compress.qat.training import Schedule, train
from controller.compress.quantize import ranges, reconstruct, static
from controller.errors import FitError
from tests.unit.controller.compress.graph import nets
from tests.unit.controller.compress.graph.nets import Net


def gated() -> onnx.ModelProto:
    """A sigmoid gate, a leaky activation, constants, a product without a bias."""
    net = Net((4, 8, 8), seed=4)
    x = net.op("LeakyRelu", [net.conv("input", "stem", 4, 8)], "leaky", alpha=0.1)
    gate = net.op("Sigmoid", [net.conv(x, "gate", 8, 8, 1)], "sigmoid")
    x = net.op("Mul", [x, gate], "mul")
    shift = net.constant("shift", np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1))
    x = net.op("Add", [x, shift], "add")
    x = net.op("Flatten", [net.op("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    inner = net.op("MatMul", [x, net.weights("inner_w", (8, 8))], "inner")
    return net.model(net.gemm(net.op("Relu", [inner], "inner_relu"), "gemm", 8, 5))


Build = Callable[[], onnx.ModelProto]
NETS: list[tuple[Build, tuple[int, ...]]] = [
    (nets.chain, (3, 12, 12)),
    (nets.residual, (4, 13, 13)),
    (gated, (4, 8, 8)),
]


def answers(model: onnx.ModelProto, inputs: Any) -> Any:
    return execute.outputs(model.SerializeToString(), "onnx", inputs)


def torch_answers(network: GraphNet, inputs: Any) -> Any:
    with torch.inference_mode():
        return network(torch.from_numpy(inputs)).numpy()


def taught(network: GraphNet, model: onnx.ModelProto, inputs: Any, rate: float) -> dict[str, float]:
    schedule = Schedule(
        epochs=2, batch=8, learning_rate=rate, temperature=2.0, alpha=1.0, seed=0, max_seconds=60.0
    )
    targets = torch.from_numpy(answers(model, inputs))
    return train(network, inputs, (targets, None), lambda stored: stored, schedule)


@pytest.mark.parametrize(("build", "shape"), NETS)
def test_in_float_it_is_the_same_function(build: Build, shape: tuple[int, ...]) -> None:
    model, inputs = build(), nets.images(shape)
    network = GraphNet(model, {})
    expected = answers(model, inputs)
    assert np.allclose(torch_answers(network, inputs), expected, atol=1e-4)
    assert np.allclose(answers(network.fp32(), inputs), expected, atol=1e-4)
    with pytest.raises(FitError, match="no quantized form"):
        network.export()


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
@pytest.mark.parametrize(("build", "shape"), NETS)
def test_after_training_the_file_answers_as_the_network_does(
    build: Build, shape: tuple[int, ...], scheme: str
) -> None:
    model, inputs = build(), nets.images(shape, count=32)
    found = ranges.collect(model, inputs)
    names = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    network = GraphNet(model, found, scheme=scheme, bits=dict.fromkeys(names[1:], 4.0))
    before = network.export()
    taught(network, model, inputs, 0.02)
    made = network.export()
    assert made.quantized.SerializeToString() != before.quantized.SerializeToString()
    given, file = torch_answers(network, inputs), answers(made.quantized, inputs)
    close = evidence.sqnr_db(given, file)
    far = evidence.sqnr_db(answers(made.fp32, inputs), file)
    assert close is None or (far is not None and close > 30.0 and close > far + 5.0)
    as_placed = static.quantize(model, found, scheme=scheme)
    both = [m.SerializeToString() for m in (made.quantized, as_placed)]
    assert execute.integer_coverage(both[0], "onnx") == execute.integer_coverage(both[1], "onnx")
    assert {n: levels(made.quantized, n) <= 7 for n in names} == {n: n != names[0] for n in names}


def levels(model: onnx.ModelProto, layer: str) -> int:
    """The largest integer weight of a layer."""
    view = graphs.View(model)
    node = next(n for n in model.graph.node if n.name == layer)
    values = view.constant(view.producers[node.input[1]].input[0])
    assert values is not None
    return int(np.abs(values.astype(int)).max())


def test_training_with_rounding_beats_rounding_and_is_seeded() -> None:
    model, inputs = nets.chain(), nets.images((3, 12, 12), count=64)
    found = ranges.collect(model, inputs)
    bits = {n.name: 2.0 for n in model.graph.node if n.op_type == "Conv"}
    reference = answers(model, inputs)

    def quality(network: GraphNet) -> float:
        sqnr = evidence.sqnr_db(reference, answers(network.export().quantized, inputs))
        assert sqnr is not None
        return sqnr

    network = GraphNet(model, found, scheme="u8s8", bits=bits)
    start = quality(network)
    numbers = taught(network, model, inputs, 0.02)
    assert quality(network) > start
    assert numbers["loss_last"] < numbers["loss_first"] or numbers["steps"] <= 20
    again = GraphNet(model, found, scheme="u8s8", bits=bits)
    taught(again, model, inputs, 0.02)
    first, second = (n.export().quantized.SerializeToString() for n in (network, again))
    assert first == second


def test_what_cannot_be_trained_is_named() -> None:
    net = Net((3, 8, 8))
    model = net.model(net.op("Tan", [net.conv("input", "conv", 3, 4)], "tan"), rank=4)
    with pytest.raises(FitError, match="Tan"):
        GraphNet(model, {})
    with pytest.raises(FitError, match="symmetric"):
        GraphNet(nets.chain(), {}, scheme="u8u8")
    dilated = Net((3, 8, 8))
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    model = dilated.model(dilated.op("MaxPool", [dilated.conv("input", "c", 3, 4)], "p", **pool), 4)
    with pytest.raises(FitError, match="MaxPool 'p'"):
        GraphNet(model, {})(torch.zeros(1, 3, 8, 8))


def test_edges_are_found_in_the_normalized_graph() -> None:
    assert reconstruct.edges(GraphNet(nets.chain(), {}).graph) == {"conv0", "gemm"}
