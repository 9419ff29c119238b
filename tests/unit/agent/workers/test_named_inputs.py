"""Models of several inputs on the device: golden records as runs, and several records as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.jobs import RuntimeOptions
from agent.workers import goldens, installed
from agent.workers.child import JobError
from agent.workers.installed import Bundle, Goldens, Loaded
from agent.workers.runtimes.onnx import OnnxRuntime, OnnxSession
from agent.workers.serving import served
from fitment.core.bundle import BundleManifest, GoldenSpec


def session(op: str = "Add") -> OnnxSession:
    """``output = left op right``, tokens and numbers."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["right"], ["real"], to=TensorProto.FLOAT),
            helper.make_node(op, ["left", "real"], ["output"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("left", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("right", TensorProto.INT64, ["n", 3]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return OnnxRuntime().load(made.SerializeToString(), RuntimeOptions())


def records(count: int = 5) -> np.ndarray:
    """Fields in another order than the model has its inputs."""
    made = np.zeros(count, [("right", np.int64, (1, 3)), ("left", np.float32, (1, 3))])
    made["left"] = np.random.default_rng(0).normal(size=(count, 1, 3))
    made["right"] = np.arange(3 * count).reshape(count, 1, 3)
    return made


def known(inputs: np.ndarray) -> Goldens:
    outputs = (inputs["left"] + inputs["right"])[:, 0].astype(np.float32)
    return Goldens(inputs=inputs, outputs=outputs, reference=outputs, tolerance=1e-4)


def test_each_record_is_a_run_and_its_answer_a_row() -> None:
    inputs = records()
    answer = goldens.evaluate(session(), known(inputs))
    assert (answer.golden_ok, answer.agreement) == (True, 1.0)
    wrong = goldens.evaluate(session("Mul"), known(inputs))
    assert not wrong.golden_ok


def test_records_that_may_be_run_together_are_found_out() -> None:
    inputs = records()
    manifest = BundleManifest(golden=GoldenSpec(inputs="", outputs="", reference="", tolerance=0.1))
    bundle = Bundle(folder=Path(), variant="sha256:0", manifest=manifest)
    loaded = Loaded(bundle=bundle, session=session(), overlay="", load_ms=1.0)
    found = served.examine(loaded, known(inputs))
    assert (found.cut, found.why) == (served.Cut.TOGETHER, "")


def test_records_of_another_model_are_refused_by_name() -> None:
    other = np.zeros(2, [("left", np.float32, (1, 3)), ("state", np.float32, (1, 3))])
    with pytest.raises(JobError, match="the inputs left, right, the samples left, state"):
        installed.answers(session(), other)


def test_records_are_not_scaled() -> None:
    spec = GoldenSpec(inputs="", outputs="", reference="", tolerance=0.1, inputs_scale=0.5)
    inputs = records()
    assert installed.scaled(inputs, spec) is inputs
