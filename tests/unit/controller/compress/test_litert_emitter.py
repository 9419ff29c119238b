"""The .tflite emitter against onnxruntime, through LiteRT's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from controller.compress import execute, probe
from controller.compress.evidence import sqnr_db
from controller.compress.quantize import ranges, static
from controller.compress.toolchains import litert
from controller.errors import FitError

KERNELS = probe.kernels()


def sample(model: onnx.ModelProto) -> Any:
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal((6, *shape[1:])).astype(np.float32)


def answers(artifact: bytes, runtime: str, inputs: Any) -> Any:
    found = execute.outputs(artifact, runtime, inputs)
    return found.transpose(0, 3, 1, 2) if runtime == "litert" and found.ndim == 4 else found


def network(*, padding: int = 1, stride: int = 1, groups: int = 1) -> onnx.ModelProto:
    """Conv, ReLU, max-pool, conv, global average, flatten, gemm: a small classifier."""
    random = np.random.default_rng(5)

    def weights(*shape: int) -> Any:
        return random.normal(0, 0.2, shape).astype(np.float32)

    tensors = {
        "w0": weights(8, 8 // groups, 3, 3), "b0": weights(8), "w1": weights(16, 8, 3, 3),
        "b1": weights(16), "w2": weights(5, 16), "b2": weights(5),
    }  # fmt: skip
    pads = [padding] * 4
    nodes = [
        helper.make_node(
            "Conv", ["x", "w0", "b0"], ["c0"], name="c0", kernel_shape=[3, 3], pads=pads,
            strides=[stride, stride], group=groups,
        ),
        helper.make_node("Relu", ["c0"], ["r0"], name="r0"),
        helper.make_node("MaxPool", ["r0"], ["p0"], name="p0", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(
            "Conv", ["p0", "w1", "b1"], ["c1"], name="c1", kernel_shape=[3, 3], pads=[1] * 4
        ),
        helper.make_node("Relu", ["c1"], ["r1"], name="r1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["g"], name="g"),
        helper.make_node("Flatten", ["g"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], name="y", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(v, k) for k, v in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


MODELS = {
    **KERNELS,
    "classifier": network(),
    "strided": network(stride=2),
    "valid": network(padding=0),
    "depthwise": network(groups=8),
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_float_answers_are_the_same(name: str) -> None:
    model = MODELS[name]
    inputs = sample(model)
    reference = answers(model.SerializeToString(), "onnx", inputs)
    found = answers(litert.convert(model), "litert", inputs)
    assert np.abs(found - reference).max() < 1e-4 * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_integer_answers_are_as_exact_as_onnxruntimes(name: str) -> None:
    model = MODELS[name]
    inputs = sample(model)
    quantized = static.quantize(model, ranges.collect(model, inputs), scheme="s8s8")
    artifact = litert.convert(quantized)
    reference = answers(model.SerializeToString(), "onnx", inputs)
    theirs = sqnr_db(reference, answers(quantized.SerializeToString(), "onnx", inputs))
    ours = sqnr_db(reference, answers(artifact, "litert", inputs))
    assert theirs is not None
    assert ours is not None
    assert ours > theirs - 3.0
    coverage = execute.integer_coverage(artifact, "litert")
    assert coverage is not None
    assert coverage >= 0.6


def test_unsigned_activations_are_refused() -> None:
    model = network()
    quantized = static.quantize(model, ranges.collect(model, sample(model)), scheme="u8s8")
    with pytest.raises(FitError, match="kernels are signed"):
        litert.convert(quantized)


def test_an_unknown_operator_is_named() -> None:
    model = network()
    model.graph.node.append(helper.make_node("Erf", ["y"], ["z"], name="odd"))
    model.graph.output[0].name = "z"
    with pytest.raises(FitError, match="no LiteRT variant: Erf 'odd'"):
        litert.convert(model)
