"""Shortening: what can be answered from what is left is answered; the rest is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from controller.compress.base import Property
from controller.compress.passes.refit import refit
from controller.compress.passes.shorten import Shorten, drop, merge
from controller.compress.passes.units import activations, units
from controller.errors import FitError

from .torch_side import Chain, Residual, candidate, context, trained

INPUTS = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Deep(nn.Module):
    """Three convolutions in a chain, the second followed by its pooling."""

    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.na, self.ra = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.b, self.nb, self.rb = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.pool = pool or nn.MaxPool2d(2)
        self.c, self.rc = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ra(self.na(self.a(x)))
        x = self.pool(self.rb(self.nb(self.b(x))))
        return self.head(self.rc(self.c(x)).mean((2, 3)))


def answers(module: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(INPUTS)


def test_a_unit_is_a_convolution_with_what_follows_it_alone() -> None:
    found = units(trained(Deep()))
    assert [(u.conv, u.norm, u.activation, u.pool, u.receiver) for u in found] == [
        ("a", "na", "ra", "", "b"), ("b", "nb", "rb", "pool", "c"), ("c", "", "rc", "", ""),
    ]  # fmt: skip


def test_functions_between_modules_stay_and_do_not_hide_the_receiver() -> None:
    first = units(trained(Chain()))[0]
    assert (first.conv, first.norm, first.activation, first.receiver) == ("a", "na", "", "b")


def test_a_residual_sum_ends_a_unit() -> None:
    assert all(u.conv != "stem" or not u.receiver for u in units(trained(Residual())))


def test_activations_count_by_hand() -> None:
    assert activations(trained(Deep()), INPUTS) == 64 * 8 + 64 * 8 + 16 * 16 + 5


def test_least_squares_finds_the_layer_that_made_the_answers() -> None:
    made = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    blank = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    refit(blank, "0", made, INPUTS)
    assert torch.allclose(blank[0].weight, made.weight, atol=1e-3)
    assert torch.allclose(blank[0].bias, made.bias, atol=1e-3)  # type: ignore[arg-type]


def test_a_layer_that_only_mixes_channels_is_dropped_without_a_trace() -> None:
    """A 1x1 convolution of positive numbers and no offset: the next one can do its work."""
    module = trained(Deep(nn.Dropout(0.5)))
    module.b.weight.data.abs_()  # type: ignore[union-attr,operator]
    module.b.bias.data.zero_()  # type: ignore[union-attr,operator]
    module.nb.reset_parameters()  # type: ignore[union-attr,operator]
    module.nb.reset_running_stats()  # type: ignore[union-attr,operator]
    expected = answers(module)
    unit = next(u for u in units(module) if u.conv == "b")
    found = drop(module, unit, INPUTS)
    assert not any(
        name in ("b", "nb") and list(m.parameters()) for name, m in found.named_modules()
    )
    assert torch.allclose(answers(found), expected, atol=2e-3 * float(expected.abs().max()))


def test_average_pooling_merges_exactly_where_nothing_stands_between() -> None:
    first, last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
    module = nn.Sequential(first, nn.AvgPool2d(2), last).eval()
    unit = units(module)[0]
    found = merge(module, unit, INPUTS)
    assert (found[0].stride, found[0].kernel_size) == ((2, 2), (5, 5))  # type: ignore[index]
    assert torch.allclose(answers(found), answers(module), atol=2e-3)


def test_channels_that_normalization_turns_are_pooled_by_their_smallest() -> None:
    module = trained(Deep())
    module.nb.weight.data[::2] *= -1  # type: ignore[union-attr,operator]
    unit = next(u for u in units(module) if u.pool)
    merged = merge(module, unit, INPUTS)
    with torch.inference_mode():
        entered = functional.relu(module.na(module.a(INPUTS)))  # type: ignore[operator]
        wanted = functional.max_pool2d(module.nb(module.b(entered)), 2)  # type: ignore[operator]
        found = merged.nb(merged.b(entered))  # type: ignore[operator]
        residue = (found - wanted).pow(2).mean((0, 2, 3)) / wanted.var((0, 2, 3))
    assert bool((residue < 0.7).all()), residue


def test_the_network_becomes_cheaper_as_asked_and_says_what_it_did() -> None:
    module = trained(Deep())
    found = Shorten(activations=0.6).run(candidate(module), context())
    numbers = found.evidence[0].numbers
    assert numbers["activations"] <= 0.6
    assert numbers["dropped"] + numbers["merged"] >= 1
    share = activations(found.payload, INPUTS) / activations(module, INPUTS)
    assert share == pytest.approx(numbers["activations"])
    assert Property.SHORTENED in found.properties
    assert answers(found.payload).shape == answers(module).shape


def test_a_network_without_chains_says_so() -> None:
    module = trained(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(FitError, match="no layer can be dropped or merged"):
        Shorten().run(candidate(module), context())


@pytest.mark.parametrize("share", [0.0, 1.0, 2.0])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(FitError, match="between 0 and 1"):
        Shorten(activations=share)
