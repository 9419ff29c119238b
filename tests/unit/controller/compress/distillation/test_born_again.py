"""Born-Again generations: who teaches whom, from which weights, and what is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from controller.compress.distillation import generations, training
from controller.compress.passes.born_again import BornAgain
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import Chain, candidate, context, trained

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
SHORT = {"epochs": 1, "batch": 16, "samples": 64}


def test_fresh_weights_are_another_draw_of_the_same_architecture() -> None:
    module = trained(Chain())
    one, same, other = (generations.fresh(module, seed) for seed in (1, 1, 2))
    assert torch.equal(one.a.weight, same.a.weight)  # type: ignore[arg-type]
    assert not torch.equal(one.a.weight, other.a.weight)  # type: ignore[arg-type]
    assert not torch.equal(one.a.weight, module.a.weight)  # type: ignore[arg-type]
    assert float(one.na.running_var.sum()) == 16.0  # type: ignore[union-attr,operator]


def test_the_ensemble_answers_with_the_mean_probability() -> None:
    class Fixed(nn.Module):
        def __init__(self, *chances: float) -> None:
            super().__init__()
            self.logits = torch.log(torch.tensor([chances])) + 7.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), -1)

    found = generations.Ensemble([Fixed(0.9, 0.1), Fixed(0.5, 0.5)])(torch.zeros(3, 1))
    assert torch.allclose(found.softmax(1), torch.tensor([[0.7, 0.3]] * 3))
    assert torch.allclose(found.exp().sum(1), torch.ones(3))


def test_each_generation_is_taught_by_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = trained(Chain())
    seen: list[tuple[nn.Module, torch.Tensor]] = []
    usual = training.train

    def watched(student: nn.Module, lesson: training.Lesson, *rest: object) -> dict[str, float]:
        assert lesson.answers is not None
        assert lesson.teacher is not None
        with torch.no_grad():
            own = lesson.teacher(torch.from_numpy(lesson.inputs)).float()
        assert torch.allclose(lesson.answers, own, atol=0.05 * float(own.abs().max()))
        seen.append((student, lesson.teacher))  # type: ignore[arg-type]
        return usual(student, lesson, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", watched)
    found = BornAgain(generations=3, **SHORT).run(candidate(teacher), context(teacher))  # type: ignore[arg-type]
    assert seen[0][1] is teacher
    assert [taught for _, taught in seen[1:]] == [student for student, _ in seen[:-1]]
    assert found.payload is seen[-1][0]
    assert found.evidence[-1].numbers["steps_3"] == 4


def test_a_generation_may_start_from_the_candidates_weights() -> None:
    teacher = trained(Chain())
    settings = {**SHORT, "learning_rate": 1e-9, "generations": 1}
    kept = BornAgain(fresh=False, **settings).run(candidate(teacher), context(teacher))  # type: ignore[arg-type]
    drawn = BornAgain(**settings).run(candidate(teacher), context(teacher, seed=9))  # type: ignore[arg-type]
    assert torch.allclose(kept.payload.a.weight, teacher.a.weight, atol=1e-5)  # type: ignore[arg-type]
    assert not torch.allclose(drawn.payload.a.weight, teacher.a.weight, atol=1e-2)  # type: ignore[arg-type]


def test_the_ensemble_is_given_as_a_teacher() -> None:
    teacher = trained(Chain())
    step = BornAgain(give="ensemble", **SHORT)  # type: ignore[arg-type]
    found = step.run(candidate(teacher), context(teacher)).payload
    assert len(found.members) == 2
    assert found(INPUTS).shape == (4, 5)
    assert not found.training


@pytest.mark.parametrize("settings", [{"generations": 0}, {"give": "best"}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(FitError, match="at least one generation"):
        BornAgain(**settings)  # type: ignore[arg-type]
