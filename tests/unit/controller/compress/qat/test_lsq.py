"""The gradients are those of the paper, value by value."""

from __future__ import annotations

import math

import pytest
import torch

from controller.compress.qat.lsq import FLOOR, LearnedStep


def reference(v: torch.Tensor, step: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Written with autograd's own means: gradient scale and straight-through rounding."""
    scale = 1 / math.sqrt(v.numel() / step.numel() * high)
    slow = step * scale + (step - step * scale).detach()
    scaled = (v / slow).clamp(low, high)
    return (scaled + (scaled.round() - scaled).detach()) * slow


@pytest.mark.parametrize("shape", [(), (3, 1, 1, 1)])
@pytest.mark.parametrize(("low", "high"), [(-7, 7), (0, 255), (-1, 1), (-100, 155)])
def test_forward_and_both_gradients(shape: tuple[int, ...], low: int, high: int) -> None:
    generator = torch.Generator().manual_seed(1)
    v = torch.randn((3, 4, 2, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    weigh = torch.randn((3, 4, 2, 2), generator=generator, dtype=torch.float64)
    step = 0.2 + 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64)
    layer = LearnedStep(step, low, high)
    other = step.clone().requires_grad_()
    found, expected = layer(v), reference(v, other, low, high)
    assert torch.allclose(found, expected)
    (of_v,) = torch.autograd.grad((expected * weigh).sum(), v, retain_graph=True)
    (of_step,) = torch.autograd.grad((expected * weigh).sum(), other)
    (found * weigh).sum().backward()
    assert v.grad is not None
    assert layer.step.grad is not None
    assert torch.allclose(v.grad, of_v)
    assert torch.allclose(layer.step.grad, of_step)


def test_one_value_by_hand() -> None:
    layer = LearnedStep(torch.tensor(0.5), -3, 3)
    for value, wanted in ((0.7, 1.0 - 1.4), (9.0, 3.0), (-9.0, -3.0)):
        layer.zero_grad()
        layer(torch.tensor([value])).sum().backward()
        assert layer.step.grad is not None
        assert float(layer.step.grad) == pytest.approx(wanted / math.sqrt(3), rel=1e-6)


def test_a_step_never_falls_to_nothing() -> None:
    layer = LearnedStep(torch.tensor([0.4, 0.8]), -7, 7)
    with torch.no_grad():
        layer.step.copy_(torch.tensor([-1.0, 0.9]))
    layer.keep_positive()
    assert layer.step.tolist() == pytest.approx([FLOOR * 0.4, 0.9])


def test_a_fixed_step_does_not_learn() -> None:
    layer = LearnedStep(torch.tensor(0.5), 0, 255, learned=False)
    v = torch.rand(8, requires_grad=True)
    layer(v).sum().backward()
    assert layer.step.grad is None
    assert v.grad is not None
