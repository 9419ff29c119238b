"""L2: a filter's Euclidean length (He et al. 2018, soft filter pruning, arXiv:1808.06866).

    s_c = √(Σ W_c²)

of all its weights W_c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material, filters, mean_of_holders

if TYPE_CHECKING:
    import torch
    from torch import nn


class L2(Criterion):
    """Short filters go first; one large weight counts for more than in L1."""

    name: ClassVar[str] = "l2"

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        del material
        return mean_of_holders([f.square().sum(dim=1).sqrt() for f in filters(module, space)])
