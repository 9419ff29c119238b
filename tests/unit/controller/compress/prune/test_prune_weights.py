"""Zeros that stay zero while a network is trained, and are final once they are settled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from controller.compress.base import Property
from controller.compress.passes.distil import Distil
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.prune_weights import PruneWeights, SettleWeights
from controller.compress.prune import schedule
from controller.compress.prune.sparse.layers import find
from controller.compress.recipe import Recipe
from controller.errors import FitError
from tests.unit.controller.compress.torch_side import (
    Chain,
    Residual,
    candidate,
    context,
    trained,
)

RECOVERY = Distil(epochs=1, samples=64, batch=16)


def zeros(module: nn.Module, name: str) -> torch.Tensor:
    return module.get_submodule(name).weight.detach() == 0  # type: ignore[union-attr,operator]


def test_the_share_is_that_of_all_inner_weights_and_the_ends_are_whole() -> None:
    module = trained(Residual())
    found = PruneWeights(sparsity=0.5).run(candidate(module), context(module)).payload
    inner = [zeros(found, name) for name in ("up", "dw", "down")]
    total = sum(z.numel() for z in inner)
    assert sum(int(z.sum()) for z in inner) == round(0.5 * total)
    assert not zeros(found, "stem").any()
    assert not zeros(found, "head").any()
    assert not zeros(module, "up").any(), "the module was changed in place"


def test_training_moves_the_rest_and_leaves_the_zeros() -> None:
    module = trained(Chain())
    known = context(module)
    pruned = PruneWeights(sparsity=0.6, ends=True).run(candidate(module), known)
    before = pruned.payload.b.weight.detach().clone()
    recovered = RECOVERY.run(pruned, known)
    settled = SettleWeights().run(recovered, known).payload
    assert torch.equal(settled.b.weight == 0, before == 0)
    kept = before != 0
    assert (settled.b.weight[kept] != before[kept]).float().mean() > 0.9
    assert not any(layer._forward_pre_hooks for layer in settled.modules())


def test_settling_is_what_the_next_use_would_see() -> None:
    module = trained(Chain())
    known = context(module)
    recovered = RECOVERY.run(PruneWeights(sparsity=0.5).run(candidate(module), known), known)
    inputs = torch.from_numpy(known.calibration[:4].copy())
    with torch.inference_mode():
        settled = SettleWeights().run(recovered, known).payload(inputs)
        assert torch.equal(settled, recovered.payload(inputs))


def test_rounds_end_at_the_sparsity_in_the_exported_graph() -> None:
    module = trained(Chain())
    steps = schedule.weight_rounds(0.7, 3, recovery=RECOVERY)
    recipe = Recipe(steps=(*steps, FoldBatchNorm(), ExportOnnx()))
    found = recipe.run(candidate(module), context(module))
    (inner,) = find(found.payload).layers[1:-1]
    assert (inner.matrix() == 0).mean() == pytest.approx(0.7, abs=1e-3)
    assert Property.SPARSE in found.properties
    grown = [e.numbers["most_zeros"] for e in found.evidence if "most_zeros" in e.numbers]
    assert grown == pytest.approx(schedule.cubic(0.7, 3), abs=1e-3)


def test_a_larger_mask_holds_the_smaller_one() -> None:
    module = trained(Chain())
    known = context(module)
    first = PruneWeights(sparsity=0.3).run(candidate(module), known)
    second = PruneWeights(sparsity=0.6).run(RECOVERY.run(first, known), known)
    assert (zeros(second.payload, "b") >= zeros(first.payload, "b")).all()
    settled = SettleWeights().run(second, known)
    assert settled.evidence[-1].numbers["layers"] == 1, "one mask a layer, not one a round"


def test_lamp_spares_a_stem_with_small_weights() -> None:
    module = trained(Chain())
    with torch.no_grad():
        module.a.weight /= 255  # type: ignore[union-attr,operator]
    found = PruneWeights(sparsity=0.5, ends=True).run(candidate(module), context(module))
    assert found.evidence[0].notes == ()
    assert np.mean(zeros(found.payload, "a").numpy()) < 0.6


def test_settling_nothing_says_what_to_do() -> None:
    module = trained(Chain())
    known = context(module)
    pruned = PruneWeights(sparsity=0.5).run(candidate(module), known)
    settled = SettleWeights().run(pruned, known)
    with pytest.raises(FitError, match="no layer holds a mask: prune weights first"):
        SettleWeights().run(settled, known)
    with pytest.raises(FitError, match="a sparsity between 0 and 1"):
        PruneWeights(sparsity=0.0)
