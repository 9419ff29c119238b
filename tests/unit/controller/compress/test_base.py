"""Passes: declarations are checked, evidence is recorded, harm is undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from controller.compress.base import Applied, Candidate, Context, Form, Pass, Property
from controller.compress.recipe import Recipe
from controller.errors import FitError

from .torch_side import context


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift(Pass):
    """Adds to a number that stands for a model."""

    name: ClassVar[str] = "shift"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})
    by: int = 1

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        return Applied(payload=candidate.payload + self.by, numbers={"by": self.by})


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded(Shift):
    """Kept only when the number grows."""

    name: ClassVar[str] = "guarded"
    guarded: ClassVar[bool] = True
    requires: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})
    ensures: ClassVar[frozenset[Property]] = frozenset()

    def score(self, candidate: Candidate, payload: Any, context: Context) -> float:
        return float(payload)


START = Candidate(form=Form.ONNX, payload=0)


def test_a_step_records_what_it_did_and_what_now_holds() -> None:
    found = Shift(by=2).run(START, context())
    assert (found.payload, found.fp32) == (2, 0)
    assert found.properties == {Property.STATIC}
    assert found.evidence[0].step == "shift(by=2)"
    assert found.evidence[0].numbers == {"by": 2.0}


@pytest.mark.parametrize(("by", "payload", "kept"), [(5, 6, True), (-5, 1, False), (0, 1, False)])
def test_a_guarded_step_that_does_no_good_is_undone(by: int, payload: int, kept: bool) -> None:
    found = Recipe(steps=(Shift(), Guarded(by=by))).run(START, context())
    assert found.payload == payload
    assert found.evidence[-1].kept is kept
    assert found.evidence[-1].numbers["score_after"] == 1 + by


def test_a_form_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FitError, match="shift takes a onnx model, not a torch one"):
        Shift().run(Candidate(form=Form.TORCH, payload=0), context())


def test_what_is_required_and_refused_is_checked() -> None:
    with pytest.raises(FitError, match="guarded requires a model that is static"):
        Guarded().run(START, context())


def test_a_failing_step_names_those_before_it() -> None:
    recipe = Recipe(steps=(Shift(), Shift(by=3), Guarded()))
    wrong = Candidate(form=Form.TORCH, payload=0)
    with pytest.raises(FitError, match=r"^step shift: "):
        recipe.run(wrong, context())


def test_a_recipe_is_named_by_its_settings_and_their_order() -> None:
    one, other = Recipe(steps=(Shift(by=1), Shift(by=2))), Recipe(steps=(Shift(by=2), Shift(by=1)))
    assert one.digest != other.digest
    assert one.digest == Recipe(steps=(Shift(by=1), Shift(by=2))).digest
    assert one.text == ("shift(by=1)", "shift(by=2)")
    head, tail = one.split()
    assert (head + tail).digest == one.digest
    assert head.text == ("shift(by=1)",)
