"""Refit a convolution by least squares, so that it answers as other layers did together.

For outputs Y [positions, C_out] that are wanted and patches X [positions, C_in·k·k] of the layer's
own input (and a column of ones where it has a bias), ridge regression gives the weights

    W = (XᵀX + λ·tr(XᵀX)/n·I)⁻¹ XᵀY

with n the columns of X. Reconstruction of a layer's response on calibration data is the idea of
He, Zhang and Sun, *Channel Pruning for Accelerating Very Deep Neural Networks* (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

RIDGE = 1e-4
BATCH = 64  # inputs at a time: patches are k·k times as large as what they come from


def refit(
    module: nn.Module,
    name: str,
    wanted: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
) -> None:
    """Give the convolution ``name`` of ``module`` the weights that come closest to ``wanted``.

    Args:
        module: in eval mode; changed in place.
        name: a dense convolution, of any stride; it gets a bias only where it had one.
        wanted: from a batch of the network's inputs to what the layer should answer.
        inputs: [N, ...] of the network.
    """
    import torch

    layer: Any = module.get_submodule(name)
    columns = layer.weight[0].numel() + (layer.bias is not None)
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    cross = torch.zeros(columns, layer.out_channels, dtype=torch.float64)
    with torch.inference_mode():
        for batch in torch.split(inputs, BATCH):
            patches = _patches(layer, entering(module, name, batch))
            target = wanted(batch).movedim(1, -1).reshape(-1, layer.out_channels)
            gram += (patches.T @ patches).double()
            cross += (patches.T @ target).double()
    gram += torch.eye(columns, dtype=torch.float64) * (RIDGE * gram.trace() / columns)
    solved = torch.linalg.solve(gram, cross).float()
    kernel = solved[: layer.weight[0].numel()]
    layer.weight.data = kernel.T.reshape(layer.weight.shape).contiguous()
    if layer.bias is not None:
        layer.bias.data = solved[-1].clone()


def entering(module: nn.Module, name: str, batch: torch.Tensor) -> torch.Tensor:
    """What enters the layer ``name`` when ``module`` runs ``batch``."""
    return _seen(module, name, batch)[0]


def leaving(module: nn.Module, name: str, batch: torch.Tensor) -> torch.Tensor:
    """What the layer ``name`` answers when ``module`` runs ``batch``."""
    return _seen(module, name, batch)[1]


def _seen(module: nn.Module, name: str, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    held: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        held.append((inputs[0], output))
        raise _Enough

    hook = module.get_submodule(name).register_forward_hook(keep)
    try:
        with torch.inference_mode():
            module(batch)
    except _Enough:
        pass
    finally:
        hook.remove()
    return held[0]


class _Enough(Exception):
    """What comes after the layer need not run."""


def _patches(layer: Any, entered: torch.Tensor) -> torch.Tensor:
    """Rows of what the kernel sees at each place, [N·H·W, C·k·k], and a one for the bias."""
    import torch
    from torch.nn import functional

    seen = functional.unfold(entered, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    rows = seen.movedim(1, -1).reshape(-1, seen.shape[1])
    return rows if layer.bias is None else torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
