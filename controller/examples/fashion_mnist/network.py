"""The example's network: a plain VGG-like CNN of 288,170 parameters.

Kept apart from ``workload.py`` so that training and fitting build the very same module.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

WIDTHS = (32, 32, 64, 64, 128, 128)
"""Output channels of the six 3x3 convolutions; a 2x2 max-pool follows each pair."""


class FashionNet(nn.Module):
    """Six Conv-BN-ReLU layers, global average pooling, one linear layer.

    Input ``[N, 1, 28, 28]`` float32 in 0..1; output ``[N, 10]`` logits.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 1
        for index, width in enumerate(widths):
            layers[f"conv{index}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers[f"bn{index}"] = nn.BatchNorm2d(width)
            layers[f"relu{index}"] = nn.ReLU()
            if index % 2 == 1 and index < len(widths) - 1:
                layers[f"pool{index}"] = nn.MaxPool2d(2)
            channels = width
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        logits: torch.Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
