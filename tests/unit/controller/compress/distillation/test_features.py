"""Where features are taken, for any module, and that nothing stays behind."""

from __future__ import annotations

import torch
from torch import nn

from controller.compress.distillation import features
from tests.unit.controller.compress.torch_side import Chain, Residual, trained

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Pyramid(nn.Sequential):
    """Two resolutions, with activations as modules."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 5),
        )  # fmt: skip


def test_the_last_convolution_of_each_resolution_with_what_belongs_to_it() -> None:
    assert features.points(trained(Pyramid()), EXAMPLE) == {(8, 8): "4", (4, 4): "8"}


def test_functional_activations_leave_the_normalization() -> None:
    assert features.points(trained(Chain()), EXAMPLE) == {(8, 8): "nb"}
    assert features.points(trained(Residual()), EXAMPLE) == {(8, 8): "no"}


def test_sequences_have_features_and_plain_layers_none() -> None:
    text = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    assert features.points(text, EXAMPLE[:, :, 0]) == {(6,): "1"}
    assert features.points(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), EXAMPLE) == {}


def test_control_flow_on_values_is_no_obstacle() -> None:
    class Branching(Pyramid):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)  # type: ignore[no-any-return]

    assert len(features.points(trained(Branching()), EXAMPLE)) == 2


def test_only_resolutions_of_both_are_compared() -> None:
    deep, flat = features.points(trained(Pyramid()), EXAMPLE), {(4, 4): "b", (2, 2): "c"}
    assert features.common(flat, deep) == [("b", "8")]


def test_hooks_take_outputs_and_go_away() -> None:
    module = trained(Pyramid())
    with features.tapped(module, ["4", "8"]) as taken:
        module(EXAMPLE)
    assert [tuple(v.shape) for v in taken.values()] == [(2, 4, 8, 8), (2, 8, 4, 4)]
    features.points(module, EXAMPLE)
    assert all(not m._forward_hooks for m in module.modules())
    assert not module.training
