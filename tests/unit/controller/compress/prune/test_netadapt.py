"""NetAdapt: the search by hand, and the pass on networks, by table and by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from controller.catalog.workload import Workload
from controller.compress.base import Context
from controller.compress.passes.prune_adapted import PruneAdapted
from controller.compress.passes.prune_structured import cuttable, narrow
from controller.compress.predict import predict
from controller.compress.prune import netadapt, shapes
from controller.compress.prune.criteria import CRITERIA, Material
from controller.compress.prune.netadapt import Pace
from controller.compress.recipe import Recipe
from controller.errors import FitError
from fitment.core.kernels import KernelTable, KernelTiming
from fitment.core.measurement import Verdict
from tests.unit.controller.compress.torch_side import (
    Chain,
    Dense,
    Residual,
    candidate,
    context,
    trained,
)

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Linear:
    """Costs and qualities that are sums over the groups; the state is the widths."""

    def __init__(self, cost: Mapping[int, float], worth: Mapping[int, float]) -> None:
        self.costs, self.worth = cost, worth
        self.tried: list[tuple[int, int, int]] = []

    def widths(self, state: dict[int, int]) -> dict[int, int]:
        return state

    def cost(self, widths: Mapping[int, int]) -> float:
        return sum(self.costs[i] * w for i, w in widths.items())

    def narrowed(
        self, state: dict[int, int], index: int, width: int, number: int
    ) -> dict[int, int]:
        self.tried.append((number, index, width))
        return {**state, index: width}

    def quality(self, state: dict[int, int]) -> float:
        return sum(self.worth[i] * w for i, w in state.items())


def test_one_round_by_hand() -> None:
    """Cost 32·1 + 32·2 = 96; a fifth less is 76.8.

    The first group reaches it at width 8 (72), for 24·0.03 = 0.72 lost and 24 saved; the second
    at 16 (64), for 16·0.05 = 0.80 lost and 32 saved: it pays better, though it loses more.
    """
    ground = Linear({0: 1.0, 1: 2.0}, {0: 0.03, 1: 0.05})
    found = netadapt.adapt({0: 32, 1: 32}, ground, target=70.0, pace=Pace(first=0.2))
    assert ground.tried == [(0, 0, 8), (0, 1, 16)]
    (step,) = found.steps
    assert (step.index, step.width, step.cost) == (1, 16, 64.0)
    assert step.quality == pytest.approx(32 * 0.03 + 16 * 0.05)
    assert (found.cost_before, found.cost, found.reached) == (96.0, 64.0, True)


def test_aims_come_nearer_as_steps_decay() -> None:
    """Steps of 10, then 5, then 2.5 from a cost of 100, in widths of one."""
    ground = Linear({0: 1.0}, {0: 1.0})
    found = netadapt.adapt(
        {0: 100}, ground, target=80.0, pace=Pace(first=0.1, decay=0.5, multiple_of=1)
    )
    assert [s.cost for s in found.steps][:3] == [90.0, 85.0, 82.0]
    assert (found.steps[-1].cost, found.reached) == (80.0, True)


def test_what_matters_stays_wide_and_what_does_not_goes() -> None:
    ground = Linear({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 0.01, 2: 0.1})
    found = netadapt.adapt({0: 64, 1: 64, 2: 64}, ground, target=100.0, pace=Pace())
    assert found.state[0] == 64
    assert found.state[1] < found.state[2]
    assert found.reached


def test_when_no_group_reaches_the_aim_each_offers_what_it_has() -> None:
    ground = Linear({0: 1.0, 1: 1.0}, {0: 1.0, 1: 0.5})
    found = netadapt.adapt({0: 16, 1: 16}, ground, target=4.0, pace=Pace(first=0.9))
    assert found.state == {0: 8, 1: 8}
    assert (found.cost, found.reached) == (16.0, False)


def test_a_cost_that_rises_when_a_layer_narrows_is_passed_over() -> None:
    """A kernel that is slow at 24 channels: the cut goes on to 16."""

    class Cliff(Linear):
        def cost(self, widths: Mapping[int, int]) -> float:
            return {32: 10.0, 24: 11.0, 16: 8.0, 8: 7.0}[widths[0]]

    ground = Cliff({0: 1.0}, {0: 1.0})
    found = netadapt.adapt({0: 32}, ground, target=9.0, pace=Pace())
    assert found.state == {0: 16}


@pytest.mark.parametrize("kind", [Chain, Residual, Dense])
def test_shapes_of_other_widths_are_those_of_the_cut_network(kind: type[nn.Module]) -> None:
    module = trained(kind())
    layers, spaces = shapes.shapes(module, INPUTS), cuttable(module, INPUTS)
    widths = {i: 8 for i, s in enumerate(spaces) if not s.frozen and s.size > 8}
    expected = shapes.resized(layers, spaces, widths)
    narrow(module, widths, CRITERIA["l1"], Material(inputs=INPUTS))
    assert shapes.shapes(module, INPUTS) == expected
    assert sum(layer.macs for layer in expected) < sum(layer.macs for layer in layers)


def test_multiply_accumulates_by_hand() -> None:
    """3→16 and 16→24 with 3x3 windows on 8x8, and 96 features to 5."""
    found = shapes.shapes(trained(Chain()), INPUTS)
    assert [layer.macs for layer in found] == [64 * 9 * 3 * 16, 64 * 9 * 16 * 24, 96 * 5]
    assert [layer.kind for layer in found] == ["conv", "conv", "gemm"]


def known(module: nn.Module) -> Context:
    """A context whose metric is agreement with the labels."""
    made = context(module)
    functions = {"metric": lambda outputs, labels: float((outputs.argmax(1) == labels).mean())}
    workload: Workload = replace(made.workload, functions=functions)
    return replace(made, workload=workload)


@pytest.mark.parametrize("kind", [Chain, Residual])
def test_a_network_is_narrowed_to_its_target(kind: type[nn.Module]) -> None:
    module = trained(kind())
    step = PruneAdapted(target=0.5, batches=1, multiple_of=4, first=0.3, judged=48)
    found = step.run(candidate(module), known(module))
    numbers = found.evidence[0].numbers
    assert numbers["reached"] == 1
    assert numbers["macs_after"] <= 0.5 * numbers["macs_before"]
    layers = shapes.shapes(found.payload, INPUTS)
    assert numbers["macs_after"] == sum(layer.macs for layer in layers)
    assert found.evidence[0].notes[0].startswith("widths: ")
    assert len(found.evidence[0].notes) == 1 + numbers["steps"]
    with torch.inference_mode():
        assert found.payload(INPUTS).shape == (4, 5)


def table(slow: str) -> KernelTable:
    """A device on which one kind of layer takes a hundred times as long."""
    timings = []
    for kernel, macs in (("conv3x3:c32:k32:h28", 10**6), ("conv1x1:c64:k64:h14", 10**6),
                         ("dwconv3x3:c32:k32:h28", 10**6), ("gemm:c128:k10", 1280)):  # fmt: skip
        us = macs / 1000 * (100 if kernel.startswith(slow) else 1)
        timings.append(KernelTiming(kernel=kernel, scheme="fp32", macs=macs, p50_us=us, count=9))
    return KernelTable(
        runtime="onnx", runtime_version="1", hardware="h", stack="s", threads=1,
        verdict=Verdict.VALID, emulated=False, timings=tuple(timings),
    )  # fmt: skip


@pytest.mark.parametrize(("slow", "group"), [("conv3x3", "stem"), ("dwconv", "up")])
def test_the_devices_table_says_where_to_cut(slow: str, group: str) -> None:
    module = trained(Residual())
    step = PruneAdapted(target=0.6, batches=1, multiple_of=4, table=table(slow))
    found = step.run(candidate(module), known(module))
    assert (
        found.payload.get_submodule(group).out_channels
        < 0.7 * module.get_submodule(group).out_channels
    )  # type: ignore[operator]
    numbers = found.evidence[0].numbers
    layers = shapes.shapes(found.payload, INPUTS)
    assert numbers["ms_after"] == pytest.approx(predict(layers, table(slow), "fp32").value)
    assert "table=onnx" in found.evidence[0].step


def test_a_table_belongs_to_the_recipes_digest() -> None:
    recipes = [Recipe(steps=(PruneAdapted(table=t),)) for t in (None, table("gemm"), table("dw"))]
    assert len({recipe.digest for recipe in recipes}) == 3


@pytest.mark.parametrize("settings", [{"target": 1.0}, {"criterion": "size"}, {"batches": 0}])
def test_bad_settings_say_what_is_needed(settings: dict[str, Any]) -> None:
    with pytest.raises(FitError, match="a target between 0 and 1"):
        PruneAdapted(**settings)


def test_a_pace_that_stands_still_is_refused() -> None:
    with pytest.raises(FitError, match="a first step between 0 and 1"):
        Pace(first=0.0)
