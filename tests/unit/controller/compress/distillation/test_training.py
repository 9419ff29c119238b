"""The training loop: what it computes, how long it goes on, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from controller.compress.distillation import augment, methods, training
from controller.compress.passes.distil import Distil
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import Chain, candidate, context, trained

GENERATOR = torch.Generator().manual_seed(0)


def _trained(**settings: object) -> tuple[nn.Module, dict[str, float]]:
    teacher = trained(Chain())
    step = Distil(epochs=2, batch=16, samples=64, **settings)  # type: ignore[arg-type]
    found = step.run(candidate(trained(Chain(), seed=5)), context(teacher))
    assert all(not m._forward_hooks for m in teacher.modules())
    return found.payload, dict(found.evidence[-1].numbers)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains_any_module(method: str) -> None:
    student, numbers = _trained(method=method)
    assert numbers["steps"] == 8
    assert numbers["features"] == (1 if method in ("hints", "attention", "similarity") else 0)
    assert not student.training
    assert all(not m._forward_hooks for m in student.modules())
    assert all(p.is_contiguous() for p in student.parameters())


def test_without_features_a_feature_method_is_hintons_and_says_so() -> None:
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)) for _ in range(2))
    step = Distil(epochs=1, batch=16, samples=64, method="attention", precision="float32")
    found = step.run(candidate(student), context(teacher))
    plain = Distil(epochs=1, batch=16, samples=64, precision="float32")
    other = plain.run(candidate(student), context(teacher))
    assert found.evidence[-1].numbers["features"] == 0
    pairs = zip(found.payload.parameters(), other.payload.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_the_student_comes_nearer_to_the_teacher_without_labels() -> None:
    teacher, student = trained(Chain()), trained(Chain(), seed=5)
    inputs = torch.from_numpy(context().training.inputs)
    step = Distil(epochs=20, batch=16, samples=96, method="label_free")
    found = step.run(candidate(student), context(teacher)).payload
    with torch.inference_mode():
        gaps = [
            float((m(inputs).softmax(1) - teacher(inputs).softmax(1)).abs().mean())
            for m in (student, found)
        ]
    assert gaps[1] < 0.5 * gaps[0]


def test_labels_alone_need_no_teacher() -> None:
    step = Distil(epochs=1, batch=16, samples=64, method="labels")
    found = step.run(candidate(trained(Chain())), context(None))
    assert found.evidence[-1].numbers["steps"] == 4
    with pytest.raises(FitError, match="needs the workload's own module"):
        Distil().run(candidate(trained(Chain())), context(None))


@pytest.mark.parametrize("settings", [{"method": "dark"}, {"precision": "float8"}])
def test_settings_that_are_not_known_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(FitError, match="are needed, not"):
        Distil(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "rounds"), [(100, 2), (200, 1), (50, 4), (10, 6), (10_000, 1)])
def test_fewer_inputs_are_gone_over_more_often(count: int, rounds: int) -> None:
    assert training.Schedule(epochs=2, samples=100).rounds(count) == rounds


@pytest.mark.parametrize(("precision", "gap"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_answers_are_the_teachers_own(precision: str, gap: float) -> None:
    teacher = trained(Chain())
    inputs = np.random.default_rng(0).normal(size=(300, 3, 8, 8)).astype(np.float32)
    found = training.answers_of(teacher, inputs, np.asarray, precision=precision)
    with torch.inference_mode():
        expected = teacher(torch.from_numpy(inputs))
    assert found.shape == (300, 5)
    assert found.dtype is torch.float32
    assert torch.allclose(found, expected, atol=gap * float(expected.abs().max()))
    assert all(p.is_contiguous() for p in teacher.parameters())


def test_a_time_limit_ends_after_the_epoch_and_is_said() -> None:
    _, numbers = _trained(max_seconds=0.0)
    assert (numbers["steps"], numbers["stopped_early"]) == (4, 1)


def test_mirrored_images_are_theirs_or_their_mirror() -> None:
    batch = torch.arange(8.0 * 6).reshape(8, 1, 2, 3)
    change = augment.change(mirror=True, shift=0)
    assert change is not None
    found = change(batch, GENERATOR)
    same = [torch.equal(a, b) for a, b in zip(found, batch, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(found, batch, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_shifted_images_move_within_reach_and_zeros_come_in() -> None:
    batch = torch.zeros(64, 2, 5, 5)
    batch[:, :, 2, 2] = 1.0
    change = augment.change(mirror=False, shift=2)
    assert change is not None
    found = change(batch, GENERATOR)
    assert found.shape == batch.shape
    assert torch.equal(found.sum(dim=(2, 3)), torch.ones(64, 2))  # the dot stays in the picture
    places = {tuple(image[0].nonzero()[0].tolist()) for image in found}
    assert len(places) > 15
    assert all(torch.equal(image[0], image[1]) for image in found)


def test_what_is_not_asked_for_or_no_image_stays() -> None:
    assert augment.change(mirror=False, shift=0) is None
    change = augment.change(mirror=True, shift=1)
    assert change is not None
    rows = torch.randn(4, 7)
    assert change(rows, GENERATOR) is rows
