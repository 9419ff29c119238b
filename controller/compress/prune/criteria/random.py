"""Random: the yardstick. What is not better than this, at the same training, is no criterion.

After enough training it is a hard one to beat (Liu et al. 2019, arXiv:1810.05270).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material

if TYPE_CHECKING:
    import torch
    from torch import nn


class Random(Criterion):
    """Channels go in an order drawn from the seed and the producers' names."""

    name: ClassVar[str] = "random"

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        import numpy as np
        import torch

        del module
        names = "\0".join(space.producers).encode()
        chance = np.random.default_rng([material.seed, *names])
        return torch.from_numpy(chance.random(space.size))
