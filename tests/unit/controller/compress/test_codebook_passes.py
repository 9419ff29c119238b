"""The passes around codebooks: they record the worst layer, and int8 holds what they chose."""

from __future__ import annotations

import numpy as np
import pytest

from controller.compress.base import Candidate, Form, Pass, Property
from controller.compress.graph.model import View
from controller.compress.passes.binary import Binary
from controller.compress.passes.cluster import Cluster
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.ternary import Ternary
from controller.compress.recipe import Recipe
from tests.unit.controller.compress.graph import nets

from .torch_side import context

PASSES: list[tuple[Pass, int]] = [(Cluster(bits=3), 8), (Ternary(), 3), (Binary(), 2)]


@pytest.mark.parametrize(("step", "most"), PASSES, ids=str)
def test_few_values_survive_static_quantization(step: Pass, most: int) -> None:
    net = nets.Net((3, 8, 8))
    x = net.op("Relu", [net.conv("input", "first", 3, 8)], "relu0")
    x = net.op("Relu", [net.conv(x, "middle", 8, 8)], "relu1")
    x = net.op("Flatten", [net.op("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    model = net.model(net.gemm(x, "gemm", 8, 5))
    recipe = Recipe(steps=(step, QuantizeStatic(scheme="u8s8")))
    found = recipe.run(Candidate(form=Form.ONNX, payload=model), context())
    assert Property.STATIC in found.properties
    numbers = found.evidence[0].numbers
    assert (numbers["layers"], numbers["left_alone"]) == (1, 2)
    assert numbers["worst_layer_sqnr_db"] > 2
    view = View(found.payload)
    for node in found.payload.graph.node:
        if node.op_type == "Conv":
            values = view.constant(view.producers[node.input[1]].input[0])
            assert values is not None
            few = max(len(np.unique(row)) for row in values) <= most
            assert few is (node.name == "middle")
