"""The pass around equalization: what it records, and which models it refuses."""

from __future__ import annotations

import pytest

from controller.compress.base import Candidate, Form, Property
from controller.compress.passes.equalize import Equalize
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.recipe import Recipe
from controller.errors import FitError

from .torch_side import Residual, candidate, context, trained


def test_a_residual_network_is_evened_out_and_answers_the_same() -> None:
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx(), Equalize()))
    found = recipe.run(candidate(trained(Residual())), context())
    numbers = found.evidence[-1].numbers
    # Stem and the block's end share a seam; two more are inside the block; the head's is an output.
    assert (numbers["seams"], numbers["left_alone"], numbers["clips_to_relu"]) == (3, 1, 0)
    assert numbers["largest_factor"] > 1.5
    assert numbers["golden_error"] < 1e-5


def test_integers_are_not_equalized() -> None:
    start = Candidate(form=Form.ONNX, payload=None, properties=frozenset({Property.STATIC}))
    with pytest.raises(FitError, match="equalize refuses a model that is static"):
        Equalize().run(start, context())
