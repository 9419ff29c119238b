"""Slimmable networks: exact at full width, prefixes below, one checkpoint for all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from controller.compress.base import Candidate, Context, Form, Property
from controller.compress.distillation import methods
from controller.compress.dynamic import slim
from controller.compress.dynamic.sandwich import Sandwich
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.onnx_tidy import answer
from controller.compress.passes.slimmable import TakeWidth, TrainSlimmable, family_of
from controller.compress.recipe import Recipe
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import (
    Chain,
    Dense,
    Residual,
    candidate,
    context,
    trained,
)

WIDTHS = (1.0, 0.5, 0.25)
INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
STEP = TrainSlimmable(widths=WIDTHS, multiple_of=4, epochs=1, batch=16, samples=64)


def _answers(module: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(INPUTS)


def _slim(kind: type[nn.Module]) -> nn.Module:
    return slim.slimmable(trained(kind()), INPUTS, WIDTHS, multiple_of=4)


@pytest.mark.parametrize("kind", [Chain, Residual, Dense])
def test_the_full_width_answers_as_the_module_does(kind: type[nn.Module]) -> None:
    module = trained(kind())
    assert torch.allclose(_answers(_slim(kind)), _answers(module), atol=1e-5)


@pytest.mark.parametrize("kind", [Chain, Residual, Dense])
@pytest.mark.parametrize("level", range(3))
def test_a_width_taken_answers_as_the_switched_network(kind: type[nn.Module], level: int) -> None:
    module = _slim(kind)
    slim.switch(module, level)
    plain = slim.at_level(module, level)
    assert torch.allclose(_answers(plain), _answers(module), atol=1e-6)
    assert not any(isinstance(m, slim.Switch) for m in plain.modules())


def test_widths_use_the_first_channels_and_norms_of_their_own() -> None:
    module = _slim(Chain)
    plain = slim.at_level(module, 1)
    assert plain.a.weight.shape == (8, 3, 3, 3)  # type: ignore[union-attr]
    assert plain.b.weight.shape == (12, 8, 3, 3)  # type: ignore[union-attr]
    assert plain.head.weight.shape == (5, 12 * 4)  # type: ignore[union-attr]
    assert torch.equal(plain.a.weight, module.a.full.weight[:8])  # type: ignore[union-attr,index]
    assert [m.num_features for m in module.nb.levels] == [24, 12, 8]  # type: ignore[union-attr]
    sums = module.a.full.weight.abs().flatten(1).sum(1)  # type: ignore[union-attr,operator]
    assert torch.equal(sums, sums.sort(descending=True).values)  # the best channels come first


@pytest.mark.parametrize(
    ("size", "width", "multiple", "kept"),
    [(32, 0.25, 8, 8), (24, 0.5, 8, 16), (6, 0.5, 8, 6), (64, 0.75, 1, 48), (16, 0.1, 8, 8)],
)
def test_what_a_width_uses(size: int, width: float, multiple: int, kept: int) -> None:
    assert slim.kept(size, width, multiple) == kept


def test_the_sandwich_holds_the_narrowest_and_some_between() -> None:
    method = Sandwich(soft=methods.make("hinton"), levels=4, between=1, draw=random.Random(0))
    drawn = [method.chosen() for _ in range(50)]
    assert {tuple(levels) for levels in drawn} == {(1, 3), (2, 3)}
    assert Sandwich(soft=methods.make("hinton"), levels=2).chosen() == [1]


def test_narrow_widths_learn_from_the_widest_and_do_not_teach_it() -> None:
    module = _slim(Chain)
    method = Sandwich(soft=methods.make("hinton"), levels=3, between=0)
    seen = methods.Seen(outputs=module(INPUTS))
    term = method.also(module, INPUTS, seen)
    assert term is not None
    term.backward()  # type: ignore[no-untyped-call]
    full = module.a.full.weight.grad  # type: ignore[union-attr]
    assert full is not None
    assert float(full[:4].abs().sum()) > 0  # the narrowest uses four channels
    assert float(full[4:].abs().sum()) == 0.0  # no gradient goes through the widest's answers
    assert all(m.level == 0 for m in module.modules() if isinstance(m, slim.Switch))


@pytest.fixture(scope="module")
def made() -> tuple[Context, Candidate]:
    teacher = trained(Chain())
    shared = context(teacher)
    return shared, STEP.run(candidate(teacher), shared)


def test_one_checkpoint_gives_every_width(made: tuple[Context, Candidate], tmp_path: Path) -> None:
    network = made[1].payload
    save_file(network.state_dict(), tmp_path / "slim.safetensors")
    again = _slim(Chain)
    again.load_state_dict(load_file(tmp_path / "slim.safetensors"))
    for level in range(3):
        one, other = slim.at_level(network, level), slim.at_level(again, level)
        assert torch.equal(_answers(one), _answers(other))
    numbers = made[1].evidence[-1].numbers
    assert numbers["parameters_shared"] < 0.75 * numbers["parameters_apart"]


def test_each_width_is_exported_and_training_is_done_once(
    made: tuple[Context, Candidate],
) -> None:
    shared, _ = made
    source = candidate(shared.teacher)
    first = STEP.run(source, shared)
    for level in range(3):
        recipe = Recipe(steps=(TakeWidth(level=level), FoldBatchNorm(), ExportOnnx()))
        found = recipe.run(first, shared)
        assert found.form is Form.ONNX
        assert Property.SLIMMABLE in found.properties
        expected = _answers(slim.at_level(made[1].payload, level)).numpy()
        assert np.allclose(answer(found.payload, INPUTS.numpy()), expected, atol=1e-4)
    assert sum(key.startswith("slim-") for key in shared.memory) == 1


def test_every_width_has_learned(made: tuple[Context, Candidate]) -> None:
    numbers = made[1].evidence[-1].numbers
    assert numbers["steps"] == 4
    for level in range(3):
        own, start = (slim.at_level(m, level) for m in (made[1].payload, _slim(Chain)))
        assert not torch.allclose(own.na.running_mean, start.na.running_mean)  # type: ignore[union-attr,arg-type]


def test_a_family_is_the_training() -> None:
    assert STEP.family.startswith("slim-")
    assert STEP.family != TrainSlimmable(widths=(1.0, 0.5)).family
    assert family_of(Recipe(steps=(STEP, TakeWidth(level=2), ExportOnnx()))) == STEP.family
    assert family_of(Recipe(steps=(FoldBatchNorm(), ExportOnnx()))) == ""
    assert STEP.family == TrainSlimmable(**{k: getattr(STEP, k) for k in STEP.settings}).family


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0), (0.75, 0.5), (1.0, 1.0), (1.0, -0.5)])
def test_widths_fall_from_one(widths: tuple[float, ...]) -> None:
    with pytest.raises(FitError, match="falling from 1"):
        TrainSlimmable(widths=widths)


def test_a_width_that_is_not_there_is_refused(made: tuple[Context, Candidate]) -> None:
    with pytest.raises(FitError, match="it has widths 0 to 2"):
        TakeWidth(level=3).run(made[1], made[0])
    with pytest.raises(FitError, match="requires a model that is slimmable"):
        TakeWidth().run(candidate(trained(Chain())), made[0])


def test_a_network_without_free_channels_says_why() -> None:
    with pytest.raises(FitError, match="no layer can change its width: the model's"):
        slim.slimmable(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), INPUTS, WIDTHS, multiple_of=4
        )
