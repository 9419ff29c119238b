"""Born-Again networks: Furlanello et al. (2018).

Generation k is a network of the same architecture with fresh weights, taught by generation k−1:

    L_k = (1−α)·CE(z_k, y) + α·T²·KL(softmax(z_{k−1}/T) ‖ softmax(z_k/T))

with T = 1 in the paper. The ensemble of the generations answers with the mean of their
probabilities; it is wider than any of them, so it is meant as a teacher.

Torch is imported with this module: load it inside functions only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


def fresh(module: nn.Module, seed: int) -> nn.Module:
    """A copy with newly drawn weights, wherever a part of it knows how to draw its own."""
    made = copy.deepcopy(module)
    torch.manual_seed(seed)
    for part in made.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return made


class Ensemble(nn.Module):
    """Logarithm of the mean probability of its members, [B, C]: logits as any other."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logs = torch.stack([torch.log_softmax(member(x).float(), dim=1) for member in self.members])
        return torch.logsumexp(logs, dim=0) - torch.log(torch.tensor(float(len(self.members))))
