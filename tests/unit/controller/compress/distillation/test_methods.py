"""Distillation methods: each loss is the formula's, on values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from controller.compress.distillation import methods
from controller.compress.distillation.attention import attention_loss, attention_map
from controller.compress.distillation.hinton import LabelFree, LabelsOnly, distillation_loss
from controller.compress.distillation.hints import hint_loss, regressor
from controller.compress.distillation.methods import Seen
from controller.compress.distillation.similarity import similarity, similarity_loss
from controller.errors import FitError


def test_soft_targets_by_hand() -> None:
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = ln 2 − H(1/4); T = 1, one input."""
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = distillation_loss(torch.zeros(1, 2), teacher, None, temperature=1.0, alpha=1.0)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    twice = distillation_loss(
        torch.zeros(2, 2), teacher.repeat(2, 1), None, temperature=1.0, alpha=1.0
    )
    assert float(twice) == pytest.approx(expected, rel=1e-6)  # averaged over the batch


@pytest.mark.parametrize("classes", [3, 10])
def test_hot_soft_targets_become_matching_of_logits(classes: int) -> None:
    """T → ∞: the gradient of KL alone tends to (z − v)/(N·T²) for logits of zero mean."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, classes, generator=generator, dtype=torch.float64)
    z, v = (x - x.mean(dim=1, keepdim=True) for x in logits)
    errors = []
    for temperature in (10.0, 100.0, 1000.0):
        student = z.clone().requires_grad_()
        distillation_loss(student, v, None, temperature=temperature, alpha=1.0).backward()
        assert student.grad is not None
        of_kl = student.grad / temperature**2  # the loss carries the factor T²
        limit = (z - v) / (classes * temperature**2) / len(z)
        errors.append(float((of_kl / limit - 1).abs().max()))
    assert errors[2] < 0.02
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # it falls as 1/T


def test_label_free_refuses_labels_and_reads_none() -> None:
    seen = Seen(outputs=torch.zeros(2, 3))
    with pytest.raises(FitError, match="must not be given labels"):
        LabelFree().loss(seen, seen, torch.zeros(2, dtype=torch.int64))
    assert float(LabelFree().loss(seen, seen, None)) == 0.0
    assert not LabelFree.uses_labels


def test_labels_alone_is_cross_entropy() -> None:
    seen = Seen(outputs=torch.zeros(2, 4))
    found = LabelsOnly().loss(seen, None, torch.tensor([0, 3]))
    assert float(found) == pytest.approx(math.log(4.0))
    with pytest.raises(FitError, match="needs class labels"):
        LabelsOnly().loss(seen, None, None)


def test_attention_by_hand() -> None:
    """Channel means of squares are (1, 0) and (0, 1): maps of length 1, gap² (1, 1), mean 1."""
    student = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])  # [1, 2, 1, 2]
    teacher = torch.tensor([[[[0.0, 3.0]]]])  # one channel is enough
    assert attention_map(student).tolist() == [[1.0, 0.0]]
    assert float(attention_loss(student, teacher)) == 1.0
    assert float(attention_loss(student, 5 * student)) == pytest.approx(0.0, abs=1e-12)


def test_similarity_by_hand() -> None:
    """Two inputs the teacher holds for alike, the student for unlike.

    G_s = I, rows of G_t = (1, 1)/√2: each entry differs by 1 − 1/√2 or by 1/√2.
    """
    student, teacher = torch.eye(2), torch.ones(2, 3)
    assert torch.equal(similarity(student), torch.eye(2))
    assert torch.allclose(similarity(teacher), torch.full((2, 2), 0.5**0.5))
    expected = (2 * (1 - 0.5**0.5) ** 2 + 2 * 0.5) / 4
    assert float(similarity_loss(student, teacher)) == pytest.approx(expected, rel=1e-6)


def test_hint_by_hand() -> None:
    assert float(hint_loss(torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 2.0))) == 2.0


def test_the_regressor_exists_where_widths_differ() -> None:
    assert isinstance(regressor(8, 8, 2), nn.Identity)
    wide = regressor(8, 12, 2)
    assert wide(torch.zeros(1, 8, 5, 5)).shape == (1, 12, 5, 5)
    assert regressor(8, 12, 1)(torch.zeros(1, 8, 5)).shape == (1, 12, 5)


@pytest.mark.parametrize("name", ["hints", "attention", "similarity"])
def test_a_feature_term_is_added_to_hintons(name: str) -> None:
    generator = torch.Generator().manual_seed(1)

    def seen(channels: int) -> Seen:
        maps = tuple(torch.randn(4, channels, s, s, generator=generator) for s in (4, 2))
        return Seen(outputs=torch.randn(4, 5, generator=generator), features=maps)

    student, teacher, labels = seen(3), seen(6), torch.arange(4)
    soft = methods.make("hinton").loss(student, teacher, labels)

    def added(weight: float | None) -> float:
        torch.manual_seed(0)  # of the regressor
        method = methods.make(name, weight=weight)
        method.prepare(student, teacher)
        return float((method.loss(student, teacher, labels) - soft).detach())

    assert added(1.0) > 0
    assert added(2.0) == pytest.approx(2 * added(1.0), rel=1e-4)
    assert added(None) > added(2.0)  # the published weights are large
    bare = methods.make(name)
    empty = Seen(outputs=student.outputs)
    bare.prepare(empty, empty)
    assert float(bare.loss(empty, Seen(outputs=teacher.outputs), labels)) == float(soft)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(FitError, match="'dark' is not one of hinton"):
        methods.make("dark")


def test_labels_weigh_as_alpha_says() -> None:
    logits, labels = torch.randn(4, 10), torch.arange(4)
    seen = Seen(outputs=logits)
    found = methods.make("hinton", alpha=0.25).loss(seen, seen, labels)
    expected = 0.75 * functional.cross_entropy(logits, labels)
    assert torch.allclose(found, expected, atol=1e-6)
