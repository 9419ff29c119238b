"""Channels that are zero on all inputs are found, and only those."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from controller.compress import idle
from tests.unit.controller.compress.graph.nets import Net


def _net(*, dead: tuple[int, ...]) -> onnx.ModelProto:
    net = Net((3, 8, 8))
    hidden = net.op("Relu", [net.conv("input", "first", 3, 6)], "relu")
    model = net.model(net.conv(hidden, "second", 6, 4), rank=4)
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item).copy()
        if item.name == "first_w":
            values[list(dead)] = 0.0
        elif item.name == "first_b":
            values[:] = 0.5
            values[list(dead)] = -1.0
        else:
            continue
        item.CopyFrom(numpy_helper.from_array(values, item.name))
    return model


def test_channels_that_are_always_zero_are_named_by_layer() -> None:
    inputs = np.random.default_rng(1).normal(size=(70, 3, 8, 8)).astype(np.float32)
    found = idle.always_zero(_net(dead=(2, 5)), inputs)
    assert {name: np.flatnonzero(dead).tolist() for name, dead in found.items()} == {
        "first": [2, 5]
    }
    (line,) = idle.remarks(_net(dead=(2, 5)), inputs)
    assert line.startswith("layer first: 2 of 6 channels are always zero over the calibration set")


def test_a_network_that_works_says_nothing() -> None:
    inputs = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    assert idle.remarks(_net(dead=()), inputs) == ()


def test_a_channel_that_works_on_one_late_input_alone_is_alive() -> None:
    model = _net(dead=(2,))
    bias = next(i for i in model.graph.initializer if i.name == "first_w")
    values = numpy_helper.to_array(bias).copy()
    values[2, 0, 1, 1] = 1.0  # above its bias of -1 only where an input is above 1
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    inputs = np.zeros((70, 3, 8, 8), np.float32)
    assert set(idle.always_zero(model, inputs)) == {"first"}
    inputs[40, 0, 3, 3] = 4.0
    assert idle.always_zero(model, inputs) == {}
