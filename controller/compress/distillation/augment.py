"""Changing inputs from epoch to epoch: mirrored, shifted. Only what the user asks for.

The teacher is asked about the changed input, so the soft target stays right even where the label
would not (Beyer et al. 2022 call that consistent teaching).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from controller.compress.distillation.training import Changed


def change(*, mirror: bool, shift: int) -> Changed | None:
    """Mirror half of the images left to right, and shift each by up to ``shift`` pixels.

    Works on [B, C, H, W]; zeros come in at the border. None when nothing is asked for. Inputs of
    other ranks stay as they are.
    """
    if not mirror and not shift:
        return None

    def changed(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if batch.ndim != 4:
            return batch
        mirrored = _mirrored(batch, generator) if mirror else batch
        return _shifted(mirrored, shift, generator) if shift else mirrored

    return changed


def _mirrored(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    chosen = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], batch.flip(3), batch)


def _shifted(batch: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    import torch
    from torch.nn import functional

    count, _, height, width = batch.shape
    padded = functional.pad(batch, (reach,) * 4)
    rows = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * reach + 1, (count, 1), generator=generator) + torch.arange(width)
    images = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
