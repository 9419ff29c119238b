"""Sources of every kind through a whole fit: what a pass does not know survives it untouched."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from agent.jobs import RuntimeOptions
from agent.workers import goldens, installed
from controller.compress.fit import FitRequest, FitResult, fit
from controller.compress.graph.subgraphs import every_node
from controller.compress.search.ladder import RuntimeTarget
from controller.domain.fleet import Variant
from fitment.core.bundle import DecisionSpec
from tests.integration import source_models as sources

TARGET = RuntimeTarget(runtime="onnx", format="onnx", schemes=("fp32", "u8s8", "dynamic"))
LITERT = RuntimeTarget(runtime="litert", format="tflite", schemes=("fp32", "s8s8"))
SOUND = '{"sound": (1, 3, 16), "state": (1, 1, 48), "rate": ()}'


def run(folder: Path, *targets: RuntimeTarget) -> FitResult:
    request = FitRequest(
        workload_folder=str(folder), runtimes=(TARGET, *targets), out=str(folder / "out"),
        cache=str(folder / "cache"), threads=1,
    )  # fmt: skip
    return fit(request, lambda _step, _fraction: None)


def variant(result: FitResult, name: str, runtime: str = "onnx") -> Variant:
    found = [v for v in result.variants if (v.name, v.runtime) == (name, runtime)]
    assert found, (name, dict(result.failed))
    return found[0]


def model(result: FitResult, name: str) -> onnx.ModelProto:
    folder = Path(result.folders[variant(result, name).bundle.variant])
    return onnx.load(folder / "model.onnx")


def notes(result: FitResult, name: str) -> str:
    folder = Path(result.folders[variant(result, name).bundle.variant])
    steps = json.loads((folder.parents[1] / "steps.json").read_text())["steps"]
    return "\n".join(line for step in steps for line in step["notes"])


def on_the_agent(result: FitResult, name: str, runtime: str = "onnx") -> goldens.Answer:
    """As a device checks a bundle before it is used."""
    bundle = installed.read(result.folders[variant(result, name, runtime).bundle.variant])
    loaded = installed.load(bundle, RuntimeOptions())
    return goldens.evaluate(loaded.session, installed.goldens(bundle))


def ops(found: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in every_node(found.graph)]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(sources.write(tmp_path_factory.mktemp("tokens"), sources.TOKENS, {}), LITERT)


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    swaps = {"FORMAT": "onnx", "SHAPE": SOUND, "INPUTS": sources.STATEFUL}
    folder = tmp_path_factory.mktemp("stateful")
    return run(sources.write(folder, sources.FILE, swaps, sources.stateful()))


def test_tokens_go_through_every_rung(tokens: FitResult) -> None:
    assert not tokens.failed
    names = {v.name for v in tokens.variants if v.runtime == "onnx"}
    assert {"fp32", "int8-u8s8", "int8-dynamic", "int8-u8s8-w4", "int8-u8s8-pruned50-kd"} <= names
    for name in names:
        assert on_the_agent(tokens, name).golden_ok, name


def test_tokens_have_litert_variants_with_integer_look_ups(tokens: FitResult) -> None:
    for name in ("fp32", "int8-s8s8", "int8-s8s8-pruned50-kd"):
        assert on_the_agent(tokens, name, "litert").golden_ok, name
    assert variant(tokens, "int8-s8s8", "litert").integer_coverage == 1.0
    assert variant(tokens, "int8-s8s8", "litert").agreement > 0.95


def test_an_embedding_is_stored_in_integers_that_the_layers_read(tokens: FitResult) -> None:
    found = model(tokens, "int8-u8s8")
    assert variant(tokens, "int8-u8s8").integer_coverage == 1.0
    assert variant(tokens, "int8-u8s8").agreement > 0.95
    whole = {i.name: i for i in found.graph.initializer}
    lookup = next(n for n in found.graph.node if n.op_type == "Gather")
    reader = next(n for n in found.graph.node if lookup.input[0] in n.output)
    table = whole[reader.input[0]]
    assert (table.data_type, list(table.dims)) == (onnx.TensorProto.UINT8, [50, 8])
    pruned = model(tokens, "fp32-pruned50-kd")
    shapes = {tuple(i.dims) for i in pruned.graph.initializer}
    assert (8, 8, 3) in shapes or (8, 4, 3) in shapes  # half of the 16 filters


def test_a_detectors_threshold_ships_with_each_variant(tokens: FitResult) -> None:
    found: dict[str, DecisionSpec] = {}
    for name in ("fp32", "int8-u8s8", "int8-u8s8-pruned50-kd"):
        made = variant(tokens, name)
        manifest = installed.read(tokens.folders[made.bundle.variant]).manifest
        assert manifest.decision is not None
        assert made.operating is not None
        assert made.operating.threshold == manifest.decision.threshold
        assert made.operating.guard_false_positive_rate <= 0.05
        found[name] = manifest.decision
    assert (found["fp32"].positive, found["fp32"].index) == ("odd", 1)
    assert len({decision.threshold for decision in found.values()}) == 3


def test_several_inputs_a_state_and_branches_survive(stateful: FitResult) -> None:
    found = model(stateful, "int8-u8s8")
    assert [i.name for i in found.graph.input] == ["sound", "state", "rate"]
    assert [o.name for o in found.graph.output] == ["output", "next"]
    assert {"LSTM", "If"} <= set(ops(found))
    assert variant(stateful, "int8-u8s8").integer_coverage == 1.0
    assert (variant(stateful, "int8-u8s8").sqnr_db or 0.0) > 20.0
    left = notes(stateful, "int8-u8s8")
    assert "left float: LSTM 'memory'" in left
    assert "left float: If 'by_rate'" in left


def test_a_state_is_stored_small_where_bytes_count(stateful: FitResult) -> None:
    small, usual = variant(stateful, "int8-u8s8-stored"), variant(stateful, "int8-u8s8")
    assert small.file_bytes < 0.5 * usual.file_bytes
    assert (small.sqnr_db or 0.0) > 20.0
    assert "size only" in notes(stateful, "int8-u8s8-stored")
    assert "stored in eight bits: 'rl'" in notes(stateful, "int8-u8s8-stored")


def test_a_device_checks_several_inputs_too(stateful: FitResult) -> None:
    for name in ("fp32", "int8-u8s8", "int8-u8s8-stored"):
        assert on_the_agent(stateful, name).golden_ok, name
    bundle = installed.read(stateful.folders[variant(stateful, "fp32").bundle.variant])
    io = bundle.manifest.io
    assert io is not None
    assert [(t.name, t.dtype) for t in io.inputs] == [
        ("sound", "float32"), ("state", "float32"), ("rate", "int64"),
    ]  # fmt: skip


def test_where_all_is_inside_branches_fp32_is_what_there_is(tmp_path: Path) -> None:
    swaps = {"FORMAT": "onnx", "SHAPE": SOUND, "INPUTS": sources.STATEFUL}
    found = run(sources.write(tmp_path, sources.FILE, swaps, sources.branches_only()))
    assert [v.name for v in found.variants] == ["fp32"]
    assert "nothing can be quantized" in found.failed["int8-u8s8"]
    assert "If 'all'" in found.failed["int8-u8s8"]
    assert "nothing was quantized" in found.failed["int8-dynamic"]


def test_constant_weights_and_free_sizes(tmp_path: Path) -> None:
    images = "random.normal(size=(count, 3, 17, 23))"
    swaps = {"FORMAT": "onnx", "SHAPE": "(3, 17, 23)", "INPUTS": images}
    found = run(sources.write(tmp_path, sources.FILE, swaps, sources.constant_weights()))
    made = model(found, "int8-u8s8")
    assert variant(found, "int8-u8s8").integer_coverage == 1.0
    assert (variant(found, "int8-u8s8").sqnr_db or 0.0) > 20.0
    assert variant(found, "int8-u8s8").macs == 8 * 27 * 8 * 11 + 64 * 8 * 11 + 32
    assert "BatchNormalization" not in ops(made)
    assert "left float: HardSigmoid 'gate'" in notes(found, "int8-u8s8")
    session_input = made.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in session_input][2:] == ["h", "w"]


def test_an_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
    ).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    made = torch.export.export(network, (torch.zeros(2, 1, 6, 6),), dynamic_shapes=({0: batch},))
    held = io.BytesIO()
    torch.export.save(made, held)
    images = "random.normal(size=(count, 1, 6, 6))"
    swaps = {"FORMAT": "pt2", "SHAPE": "(1, 6, 6)", "INPUTS": images}
    found = run(sources.write(tmp_path, sources.FILE, swaps, held.getvalue()))
    assert variant(found, "int8-u8s8").integer_coverage == 1.0
    inputs = np.random.default_rng(5).normal(size=(4, 1, 6, 6)).astype(np.float32)
    exported = model(found, "fp32").SerializeToString()
    assert np.allclose(_answers(exported, inputs), _torch(network, inputs), atol=1e-5)


def _answers(content: bytes, inputs: np.ndarray) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def _torch(network: nn.Module, inputs: np.ndarray) -> Any:
    with torch.inference_mode():
        return network(torch.from_numpy(inputs)).numpy()
