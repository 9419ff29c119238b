"""ThiNet: channels by what the next layer's outputs lose (Luo et al. 2017, arXiv:1707.06342).

The output of the next layer is a sum over its input channels, ``y = Σ_c z_c`` (without bias), at
every place and for every filter. Greedily the channel joins the removed set T that keeps

    Σ_samples (Σ_{c ∈ T} z_c)²

least (the paper's algorithm 1). What stays is rescaled by least squares (equation 7):

    ŵ = argmin Σ_samples (y − Σ_{c ∉ T} w_c z_c)²

Both need no samples of y but only the Gram matrix ``G_cd = Σ z_c z_d``. With windows x of the
next layer's input and its weights W that is exact over all filters at once:
``G_cd = Σ_{k,l} (Σ x_ck x_dl) · (Σ_o W_ock W_odl)``.

Where several layers read the channels, their Gram matrices are added after division by the energy
of their outputs, and each layer is rescaled by its own least squares (the paper knows chains only).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from controller.compress.passes.channels import Slot, Space
from controller.compress.prune.criteria.base import Criterion, Material
from controller.compress.prune.surgery import features
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

PLACES = 10  # windows of each input, as in the paper
BATCH = 32
RIDGE = 1e-6  # of the mean diagonal: channels that never fire make the Gram matrix singular


class ThiNet(Criterion):
    """Channels that the next layer's outputs do without go first; the rest makes up for them."""

    name: ClassVar[str] = "thinet"
    needs_inputs: ClassVar[bool] = True

    def scores(self, module: nn.Module, space: Space, material: Material) -> torch.Tensor:
        import torch

        grams = [g for _, g in self._grams(module, space, material)]
        joint = torch.stack([g / g.sum().abs().clamp_min(1e-12) for g in grams]).sum(dim=0)
        return removal_order(joint)

    def mend(self, module: nn.Module, space: Space, kept: torch.Tensor, material: Material) -> None:
        """Rescale what each next layer reads of the channels that stay."""
        import torch

        with torch.no_grad():
            for slot, gram in self._grams(module, space, material):
                weight: Any = module.get_submodule(slot.name).weight
                scale = rescale(gram, kept).to(weight.dtype).repeat_interleave(slot.factor)
                shape = [1, -1] + [1] * (weight.ndim - 2)
                weight[:, features(slot, kept)] *= scale.reshape(shape)

    def _grams(
        self, module: nn.Module, space: Space, material: Material
    ) -> list[tuple[Slot, torch.Tensor]]:
        if material.inputs is None:
            raise FitError("the thinet criterion needs inputs")
        return [(slot, gram(module, slot, space.size, material)) for slot in space.consumers]


def removal_order(gram: torch.Tensor) -> torch.Tensor:
    """Greedy order [channels] in which channels are removed: 0 goes first.

    Ties go to the lower index.
    """
    import torch

    size = len(gram)
    order = torch.empty(size, dtype=torch.float64)
    joint = torch.zeros(size, dtype=gram.dtype)  # Σ_{t ∈ T} G_ct
    free = torch.ones(size, dtype=torch.bool)
    for step in range(size):
        added = torch.where(free, 2 * joint + gram.diagonal(), torch.inf)
        chosen = int(added.argmin())
        order[chosen] = step
        free[chosen] = False
        joint += gram[chosen]
    return order


def rescale(gram: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Factors [kept] by which the kept contributions best add up to the whole output."""
    import torch

    inner = gram[kept][:, kept]
    level = RIDGE * inner.diagonal().mean().clamp_min(1e-12)
    gone = gram[kept].sum(dim=1) - inner.sum(dim=1)
    eye = torch.eye(len(kept), dtype=gram.dtype)
    correction: torch.Tensor = torch.linalg.solve(inner + level * eye, gone)
    return 1.0 + correction


def gram(module: nn.Module, slot: Slot, size: int, material: Material) -> torch.Tensor:
    """``G`` [size, size] of the channels at ``slot``, over sampled places of all inputs."""
    import torch

    layer: Any = module.get_submodule(slot.name)
    read = features(slot, torch.arange(size))
    generator = torch.Generator().manual_seed(material.seed)
    width = int(read.shape[0]) * math.prod(layer.weight.shape[2:])
    found = torch.zeros(width, width, dtype=torch.float64)

    def catch(_layer: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        rows = _windows(layer, arguments[0][:, read], generator)
        found.add_(rows.T @ rows)

    handle = layer.register_forward_pre_hook(catch)
    inputs = material.inputs
    assert inputs is not None
    try:
        with torch.inference_mode():
            for start in range(0, len(inputs), BATCH):
                module(inputs[start : start + BATCH])
    finally:
        handle.remove()
    with torch.no_grad():
        weights = layer.weight.detach()[:, read].flatten(1).double()
        share = weights.shape[1] // size
        products: torch.Tensor = found * (weights.T @ weights)
        return products.reshape(size, share, size, share).sum(dim=(1, 3))


def _windows(layer: Any, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Some windows of a layer's input as rows [n, channels · window], ordered as its weights."""
    import torch
    from torch.nn import functional

    if not hasattr(layer, "kernel_size"):
        return values.double()
    values = functional.pad(values, _padding(layer), mode=_mode(layer))
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        values = values.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    rank = len(kernel)
    places = values.shape[2 : 2 + rank].numel()
    rows = values.flatten(2 + rank).flatten(2, 1 + rank)  # [N, C, places, window]
    chosen = torch.randperm(places, generator=generator)[:PLACES]
    return rows[:, :, chosen].transpose(1, 2).flatten(2).flatten(0, 1).double()


def _padding(layer: Any) -> list[int]:
    """What is put around the input, last axis first, before and behind."""
    pads: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if isinstance(layer.padding, str):
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            total = total if layer.padding == "same" else 0
            pads += [total // 2, total - total // 2]
        else:
            pads += [layer.padding[axis]] * 2
    return pads


def _mode(layer: Any) -> str:
    return "constant" if layer.padding_mode == "zeros" else str(layer.padding_mode)
