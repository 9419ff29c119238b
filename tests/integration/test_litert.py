"""The ``.tflite`` emitter on the example's trained network, through the real interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from controller.compress import execute
from controller.compress.quantize import ranges, static
from controller.compress.toolchains import litert
from tests.integration import example_models
from tests.integration.example_models import Example


@pytest.fixture(scope="module")
def example() -> Example:
    return example_models.fashion_mnist()


@pytest.fixture(scope="module")
def quantized(example: Example) -> Any:
    return static.quantize(
        example.model, ranges.collect(example.model, example.calibration[:128]), scheme="s8s8"
    )


def test_float_answers_are_onnxruntimes(example: Example) -> None:
    expected = execute.outputs(example.model.SerializeToString(), "onnx", example.test)
    found = execute.outputs(litert.convert(example.model), "litert", example.test)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_integer_answers_agree_with_the_qdq_model(example: Example, quantized: Any) -> None:
    content = litert.convert(quantized)
    expected = execute.outputs(quantized.SerializeToString(), "onnx", example.test)
    found = execute.outputs(content, "litert", example.test)
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.99
    reference = execute.outputs(example.model.SerializeToString(), "onnx", example.test)
    assert (found.argmax(1) == reference.argmax(1)).mean() >= 0.985
    assert abs((found.argmax(1) == example.labels).mean() - 0.937) < 0.02
    assert execute.integer_coverage(content, "litert") == 1.0
    assert len(content) < 0.3 * len(litert.convert(example.model))


@pytest.mark.parametrize("integer", [False, True])
def test_the_delegate_takes_the_whole_graph(
    example: Example, quantized: Any, integer: bool
) -> None:
    content = litert.convert(quantized if integer else example.model)
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    assert [item["op_name"] for item in details].count("DELEGATE") == 1
    taken = next(item for item in details if item["op_name"] == "DELEGATE")
    sources = {i["index"] for i in interpreter.get_input_details()}
    targets = {i["index"] for i in interpreter.get_output_details()}
    assert sources <= set(taken["inputs"])
    assert targets == set(taken["outputs"])


def test_the_file_says_what_to_feed(quantized: Any) -> None:
    spec = execute.io_spec(litert.convert(quantized), "litert", labels=("a",))
    assert spec.layout == "NHWC"
    assert (spec.inputs[0].name, spec.inputs[0].dtype) == ("images", "float32")
    assert spec.inputs[0].shape == (-1, 28, 28, 1)
    assert spec.outputs[0].shape == (-1, 10)
    assert spec.inputs[0].scale is None
    assert spec.labels == ("a",)
