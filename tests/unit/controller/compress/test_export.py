"""Export: the same answers, a free batch, and the same bytes for the same weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from controller.compress.base import Candidate, Form
from controller.compress.passes import onnx_tidy
from controller.compress.passes.export import AcceptOnnx, ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.recipe import Recipe

from .torch_side import SHAPE, Chain, Residual, candidate, context, trained

RECIPE = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))


@pytest.mark.parametrize("kind", [Chain, Residual])
def test_the_exported_model_is_plain(kind: type[nn.Module]) -> None:
    found = RECIPE.run(candidate(trained(kind())), context())
    model = found.payload
    onnx.checker.check_model(model)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Constant"}
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert found.evidence[-1].numbers["golden_error"] < 1e-5
    for count in (1, 5):
        assert onnx_tidy.answer(model, np.zeros((count, *SHAPE), np.float32)).shape == (count, 5)


def test_the_same_weights_give_the_same_bytes_without_traces_of_this_machine() -> None:
    one, other = (
        RECIPE.run(candidate(trained(Chain())), context()).payload.SerializeToString()
        for _ in range(2)
    )
    assert one == other
    assert b"site-packages" not in one
    assert b"forward" not in one


def _fixed(batch_reshape: bool) -> onnx.ModelProto:
    """Flatten and a matrix product; a batch written into a Reshape cannot be freed."""
    weights = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
    shape = np.array([1, 192] if batch_reshape else [0, -1], np.int64)
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(shape)),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


@pytest.mark.parametrize(("batch_reshape", "freed"), [(False, 1.0), (True, 0.0)])
def test_a_users_model_gets_a_free_batch_where_that_holds(
    batch_reshape: bool, freed: float
) -> None:
    start = Candidate(form=Form.ONNX, payload=_fixed(batch_reshape))
    found = AcceptOnnx().run(start, context())
    assert found.evidence[0].numbers["batch_free"] == freed
    assert not any(node.op_type == "Constant" for node in found.payload.graph.node)
