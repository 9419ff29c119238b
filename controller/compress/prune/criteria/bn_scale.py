"""BN scale: the batch normalization's own factor (Liu et al. 2017, network slimming).

    s_c = |γ_c|

arXiv:1708.06519, there with an L1 penalty on γ while the network is trained; networks come to us
trained, so here it is the scale as it is. A space without normalization is judged by L1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material, mean_of_holders
from controller.compress.prune.criteria.l1 import L1

if TYPE_CHECKING:
    import torch
    from torch import nn


class BnScale(Criterion):
    """Channels whose normalization scales them down go first."""

    name: ClassVar[str] = "bn_scale"

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        found = []
        for slot in space.norms:
            weight: Any = module.get_submodule(slot.name).weight
            if weight is not None:
                found.append(weight.detach()[slot.offset : slot.offset + space.size].abs())
        return mean_of_holders(found) if found else L1().scores(module, space, material)
