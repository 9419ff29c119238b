"""L1: a filter's sum of magnitudes (Li et al. 2017, arXiv:1608.08710).

    s_c = Σ |W_c|

of all its weights W_c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material, filters, mean_of_holders

if TYPE_CHECKING:
    import torch
    from torch import nn


class L1(Criterion):
    """Small filters go first."""

    name: ClassVar[str] = "l1"

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        del material
        return mean_of_holders([f.abs().sum(dim=1) for f in filters(module, space)])
