"""Early exit: the answers of the straight graph, less work, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from controller.compress import execute
from controller.compress.base import Candidate, Context, Form
from controller.compress.dynamic import branch, exits
from controller.compress.graph import model as graphs
from controller.compress.passes.early_exit import AttachExit, BranchExit, lowest
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.onnx_tidy import answer
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.recipe import Recipe
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import candidate, context, trained

ATTACH = AttachExit(hidden=8, epochs=4, batch=16, samples=96)


class Pyramid(nn.Module):
    """Two resolutions of 8x8 and 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.b, self.nb = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.na(self.a(x))))
        return self.head(torch.relu(self.nb(self.b(x))).mean(dim=(2, 3)))


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs.argmax(1) == labels).mean())


@pytest.fixture(scope="module")
def shared() -> Context:
    """Labels are the network's own answers, so that leaving early can only lose."""
    network = trained(Pyramid())
    made = context(network)
    with torch.no_grad():  # answers that differ from input to input
        outputs = network(torch.from_numpy(made.training.inputs))
        network.head.bias -= outputs.mean(0)  # type: ignore[operator,union-attr]
        network.head.bias *= 30  # type: ignore[operator,union-attr]
        network.head.weight *= 30  # type: ignore[operator,union-attr]
    workload = replace(made.workload, functions={"metric": _accuracy})
    splits = {}
    for name, split in made.splits.items():
        with torch.inference_mode():
            labels = network(torch.from_numpy(split.inputs)).argmax(1).numpy()
        splits[name] = replace(split, labels=labels)
    return replace(made, workload=workload, splits=splits)


@pytest.fixture(scope="module")
def straight(shared: Context) -> Candidate:
    recipe = Recipe(steps=(ATTACH, FoldBatchNorm(), ExportOnnx()))
    return recipe.run(candidate(shared.teacher), shared)


def _ops(graph: onnx.GraphProto) -> list[str]:
    return [node.op_type for node in graph.node]


def test_the_attached_exit_changes_no_answer_and_no_weight(shared: Context) -> None:
    before = {k: v.clone() for k, v in shared.teacher.state_dict().items()}
    found = ATTACH.run(candidate(shared.teacher), shared)
    assert all(torch.equal(v, shared.teacher.state_dict()[k]) for k, v in before.items())
    kept = found.payload.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in before.items())
    assert found.evidence[-1].numbers["exit_resolution"] == 8


def test_a_stem_keeps_its_statistics_while_the_head_learns() -> None:
    stem = exits.stem_of(trained(Pyramid()), "na")
    module = exits.Stem(stem, exits.head(8, 8, 5, 4)).train()
    before = stem.na.running_mean.clone()  # type: ignore[union-attr,operator]
    module(torch.randn(4, 3, 8, 8)).sum().backward()
    assert torch.equal(stem.na.running_mean, before)  # type: ignore[union-attr,arg-type]
    assert all(p.grad is None for p in stem.parameters())
    assert all(p.grad is not None for p in module.head.parameters())
    assert not hasattr(stem, "b")


def test_only_features_before_the_last_get_an_exit(shared: Context) -> None:
    with pytest.raises(FitError, match="no exit at feature 1: the network has 2 resolutions"):
        AttachExit(at=1).run(candidate(shared.teacher), shared)


def test_the_rest_moves_into_the_branch(straight: Candidate) -> None:
    made = branch.branched(straight.payload, 0.5)
    assert _ops(made.graph).count("Conv") == 3  # the stem's and the head's two
    assert _ops(made.graph)[-1] == "If"
    late = next(a.g for a in made.graph.node[-1].attribute if a.name == "else_branch")
    assert _ops(late).count("Conv") == 1
    assert _ops(late)[-1] == "Where"
    assert {i.name for i in late.initializer} & {n for x in late.node for n in x.input}
    assert not {i.name for i in late.initializer} & {i.name for i in made.graph.initializer}


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("size", [1, 3, 32])
def test_answers_do_not_depend_on_the_batch(
    straight: Candidate, shared: Context, size: int, quantized: bool
) -> None:
    start = QuantizeStatic().run(straight, shared) if quantized else straight
    inputs = shared.training.inputs[:32]
    early, final = branch.both_answers(start.payload, inputs)
    sure = branch.confidence(early)
    threshold = float(np.median(sure))
    made = branch.branched(start.payload, threshold)
    found = np.concatenate([answer(made, inputs[i : i + size]) for i in range(0, 32, size)])
    expected = np.where((sure > threshold)[:, None], early, final)
    clear = np.abs(sure - threshold) > 1e-3
    assert 10 < (sure > threshold).sum() < 22
    assert np.allclose(found[clear], expected[clear], atol=1e-3 * np.abs(expected).max())


def test_the_branch_begins_with_integers(straight: Candidate, shared: Context) -> None:
    """A layer is fused with a dequantization of its own graph only."""
    quantized = QuantizeStatic().run(straight, shared).payload
    made = branch.branched(quantized, 0.5)
    late = next(a.g for a in made.graph.node[-1].attribute if a.name == "else_branch")
    inside = {n for node in late.node for n in node.output} | {i.name for i in late.initializer}
    outside = {n for node in late.node for n in node.input if n not in inside}
    producers = {n: node.op_type for node in made.graph.node for n in node.output}
    by_kind = sorted(producers[name] for name in outside)
    assert by_kind == ["Greater", "QuantizeLinear", "QuantizeLinear"]  # feature, exit's logits


def test_layers_in_a_branch_count_for_the_integer_coverage(
    straight: Candidate, shared: Context
) -> None:
    plain = branch.branched(straight.payload, 0.5).SerializeToString()
    quantized = QuantizeStatic().run(straight, shared).payload
    assert execute.integer_coverage(plain, "onnx") == 0.0
    made = branch.branched(quantized, 0.5).SerializeToString()
    whole = execute.integer_coverage(quantized.SerializeToString(), "onnx")
    assert execute.integer_coverage(made, "onnx") == whole == 1.0


def test_confidence_is_the_largest_probability() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]], np.float32)) + 100
    assert np.allclose(branch.confidence(logits), [0.7, 0.4], atol=1e-5)


def test_the_guard_set_chooses_the_threshold(straight: Candidate, shared: Context) -> None:
    found = [BranchExit(loss_max=x).run(straight, shared) for x in (0.05, 0.5)]
    strict, loose = (f.evidence[-1].numbers for f in found)
    assert found[0].form is Form.ONNX
    assert strict["guard_loss"] <= 0.05
    assert loose["guard_loss"] <= 0.5
    assert strict["threshold"] > loose["threshold"]
    assert strict["guard_exits"] < loose["guard_exits"]
    guard = shared.splits["calibration_b"]
    outputs = answer(found[0].payload, guard.inputs)
    assert 1.0 - _accuracy(outputs, guard.labels) == pytest.approx(strict["guard_loss"], abs=0.011)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.2),  # (by threshold, falling)
        ([0.0, 0.1, 0.0, 0.0], 0.8),  # a lucky low one behind a bad one is not taken
        ([0.1, 0.0, 0.0, 0.0], None),
    ],
)
def test_the_lowest_threshold_without_a_worse_one_above(
    losses: list[float], expected: float | None
) -> None:
    sure = np.array([0.2, 0.4, 0.6, 0.8], np.float32)
    by_value = dict(zip((0.8, 0.6, 0.4, 0.2), losses, strict=True))

    def loss(threshold: float) -> float:
        return by_value[min(by_value, key=lambda value: abs(value - threshold))]

    found = lowest(sure, loss, 0.05)
    assert found is None if expected is None else abs(found - expected) < 0.11  # type: ignore[operator]


def test_graphs_without_an_exit_are_refused(shared: Context) -> None:
    plain = Recipe(steps=(FoldBatchNorm(), ExportOnnx())).run(candidate(shared.teacher), shared)
    with pytest.raises(FitError, match="does not end with the selection of an exit"):
        BranchExit().run(plain, shared)


def test_a_straight_graph_counts_all_its_work(straight: Candidate) -> None:
    assert graphs.heavy_ops(straight.payload) == 6
