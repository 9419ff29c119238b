"""A depthwise network of the MobileNetV2 kind for 28x28 grey images, about 110,000 parameters."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Inverted residual: 1x1 up, 3x3 depthwise, 1x1 down (Sandler et al. 2018)."""

    def __init__(self, channels: int, out: int, *, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(images)
        return images + found if self.residual else found


class DepthwiseNet(nn.Module):
    """Input [N, 1, 28, 28] float32 in 0..1; output [N, 10] logits."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 40, 64, 128)) -> None:
        super().__init__()
        stem, one, two, three, head = widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU6()
        )
        self.blocks = nn.Sequential(
            Block(stem, one, stride=1, expand=4),
            Block(one, one, stride=1, expand=4),
            Block(one, two, stride=2, expand=4),
            Block(two, two, stride=1, expand=4),
            Block(two, three, stride=1, expand=4),
            Block(three, three, stride=1, expand=4),
        )
        self.head = nn.Sequential(
            nn.Conv2d(three, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6()
        )
        self.classifier = nn.Linear(head, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.head(self.blocks(self.stem(images)))
        logits: torch.Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
