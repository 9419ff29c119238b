"""A text network: embedded words, two widths of convolution over them, the largest of each."""

from __future__ import annotations

import torch
from torch import nn


class TextNet(nn.Module):
    """Input [N, 256] token numbers, 0 for none; output [N, 2] logits of ham and spam."""

    def __init__(self, words: int = 8_000, width: int = 32, channels: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.short = nn.Sequential(nn.Conv1d(width, channels, 3, padding=1), nn.ReLU())
        self.long = nn.Sequential(
            nn.Conv1d(width, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(channels, channels, 3, padding=1), nn.BatchNorm1d(channels), nn.ReLU(),
        )  # fmt: skip
        self.largest = nn.AdaptiveMaxPool1d(1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * channels, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.embedding(tokens).transpose(1, 2)
        short, long = self.largest(self.short(found)), self.largest(self.long(found))
        joined = torch.cat([short, long], dim=1).flatten(1)
        logits: torch.Tensor = self.head(self.dropout(joined))
        return logits
