"""Distillation: the gradient is the formula's, and a seed decides everything."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from controller.compress.passes.distil import Distil, distillation_loss
from controller.compress.passes.prune_structured import PruneStructured
from controller.compress.recipe import Recipe

from .torch_side import Chain, candidate, context, trained


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.9), (2.5, 0.3)])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_gradient_identity(temperature: float, alpha: float, classes: int) -> None:
    """d soft / d z_s = α·T·(softmax(z_s/T) − softmax(z_t/T)) / B, whatever the class count."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, classes, generator=generator, requires_grad=True)
    teacher = torch.randn(6, classes, generator=generator)
    distillation_loss(student, teacher, None, temperature=temperature, alpha=alpha).backward()
    gap = functional.softmax(student.detach() / temperature, 1)
    gap = gap - functional.softmax(teacher / temperature, 1)
    assert student.grad is not None
    assert torch.allclose(student.grad, alpha * temperature * gap / 6, atol=1e-6)


def test_logits_that_differ_by_a_constant_cost_nothing() -> None:
    logits = torch.randn(4, 10)
    assert distillation_loss(logits + 3.0, logits, None, temperature=4, alpha=1) < 1e-6


def test_labels_add_their_share() -> None:
    logits, labels = torch.randn(4, 10), torch.arange(4)
    found = distillation_loss(logits, logits, labels, temperature=4, alpha=0.9)
    assert torch.allclose(found, 0.1 * functional.cross_entropy(logits, labels), atol=1e-6)


def test_single_outputs_are_matched_by_their_values() -> None:
    one, other = torch.zeros(4, 1), torch.full((4, 1), 2.0)
    assert distillation_loss(one, other, None, temperature=4, alpha=0.9) == 4.0


def _recovered(
    seed: int, *, alpha: float = 0.9
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    teacher = trained(Chain())
    recipe = Recipe(
        steps=(PruneStructured(ratio=0.5), Distil(epochs=2, batch=16, samples=64, alpha=alpha))
    )
    found = recipe.run(candidate(teacher), context(teacher, seed=seed))
    return found.payload.state_dict(), dict(found.evidence[-1].numbers)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, numbers = _recovered(1)
    again, _ = _recovered(1)
    other, _ = _recovered(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert (numbers["steps"], numbers["samples"], numbers["stopped_early"]) == (8, 64, 0)


def test_without_labels_only_the_teacher_counts() -> None:
    assert _recovered(1, alpha=1.0)[1]["steps"] == 8
