"""Folding leaves the outputs as they are and no normalization behind a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from controller.compress.base import Property
from controller.compress.passes.fold import FoldBatchNorm

from .torch_side import Chain, Residual, candidate, context, trained


@pytest.mark.parametrize(("kind", "count"), [(Chain, 2), (Residual, 4)])
def test_outputs_stay(kind: type[nn.Module], count: int) -> None:
    module = trained(kind())
    found = FoldBatchNorm().run(candidate(module), context())
    inputs = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(module(inputs), found.payload(inputs), atol=1e-4)
    assert found.evidence[0].numbers["folded"] == count
    assert found.properties == {Property.FOLDED}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in found.payload.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules()), "changed in place"


def test_a_normalization_with_other_readers_is_left_alone() -> None:
    class Forked(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raw = self.a(x)
            x = torch.relu(self.na(raw) + raw)
            return self.head(self.pool(torch.relu(self.nb(self.b(x)))).flatten(1))

    found = FoldBatchNorm().run(candidate(trained(Forked())), context())
    assert found.evidence[0].numbers["folded"] == 1
