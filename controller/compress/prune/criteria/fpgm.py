"""FPGM: distance from the filters' geometric median (He et al. 2019, arXiv:1811.00250).

    s_c = Σ_d ‖W_c − W_d‖₂

The filter with the least sum of distances is the one among them nearest to their geometric
median: the others can stand in for it, however large it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material, filters, mean_of_holders

if TYPE_CHECKING:
    import torch
    from torch import nn


class Fpgm(Criterion):
    """Filters that others can replace go first."""

    name: ClassVar[str] = "fpgm"

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        import torch

        del material
        return mean_of_holders([torch.cdist(f, f).sum(dim=1) for f in filters(module, space)])
