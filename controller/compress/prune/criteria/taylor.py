"""Taylor: the first-order change of the loss when a channel goes (Molchanov et al. 2019).

    s_c = E_batch[(Σ_{w ∈ S_c} ∂L/∂w · w)²]

arXiv:1906.10771, equation 8, with S_c all weights that read channel c: setting them to zero is
what removal does, in coupled groups and behind depthwise layers too. Behind a ReLU and a
max-pooling it equals the paper's gate behind the batch normalization, since both let a positive
factor through.

L is the cross-entropy against class numbers. The fp32 network's own outputs cannot serve as a
soft aim: before anything is cut they are the network's answers, and the gradient is zero; its
answers as class numbers can. Outputs that are no class scores take L = ½‖f(x)‖².
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.passes.channels import Space
from controller.compress.prune.criteria.base import Criterion, Material
from controller.compress.prune.surgery import features
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 8  # the square is of a batch's mean: large batches average the signal away


class Taylor(Criterion):
    """Channels whose absence changes the loss least go first."""

    name: ClassVar[str] = "taylor"
    needs_inputs: ClassVar[bool] = True

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        import torch

        if material.inputs is None:
            raise FitError("the taylor criterion needs inputs")
        weights: list[Any] = [module.get_submodule(s.name).weight for s in space.consumers]
        total = torch.zeros(space.size)
        batches = 0
        for start in range(0, len(material.inputs), BATCH):
            part = slice(start, start + BATCH)
            labels = None if material.labels is None else material.labels[part]
            loss = _loss(module(material.inputs[part]), labels)
            # A module that reads the space twice is one weight with two slots.
            gradients = torch.autograd.grad(loss, list(dict.fromkeys(weights)))
            by_weight = dict(zip(dict.fromkeys(weights), gradients, strict=True))
            change = torch.zeros(space.size)
            for slot, weight in zip(space.consumers, weights, strict=True):
                read = features(slot, torch.arange(space.size))
                product = (by_weight[weight] * weight.detach())[:, read]
                change += product.reshape(len(weight), space.size, -1).sum(dim=(0, 2))
            total += change**2
            batches += 1
        return total / max(batches, 1)


def _loss(outputs: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    from torch.nn import functional

    if labels is None:
        return 0.5 * outputs.square().flatten(1).sum(dim=1).mean()
    return functional.cross_entropy(outputs, labels)
