"""A ResNet-8 for Fashion-MNIST: the network of the few-bits benchmark, and its training.

    python -m tests.benchmarks.compression.resnet8 --out resnet8.safetensors

Stem of 16 channels, three residual blocks of 16, 32 and 64, spatial mean, one linear layer: the
image-classification network of MLPerf Tiny (Banbury et al., 2021, arXiv:2106.07597) with one
input channel. The schedule is fixed in advance; the test images are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from controller.examples.fashion_mnist import train as example

CHECKPOINT = Path(__file__).with_name("resnet8.safetensors")
WIDTHS = (16, 32, 64)
EPOCHS = 12
SEED = 7


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(cout)
        plain = cin == cout and stride == 1
        self.skip = nn.Identity() if plain else nn.Conv2d(cin, cout, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.skip(x))


class ResNet8(nn.Module):
    """Input ``[N, 1, 28, 28]`` float32 in 0..1; output ``[N, 10]`` logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS[:-1])
        blocks = (Block(a, b, 1 if a == b else 2) for a, b in zip(before, WIDTHS, strict=True))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(WIDTHS[-1], 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: torch.Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def trained(path: Path = CHECKPOINT) -> ResNet8:
    """The network with the weights in ``path``, in eval mode."""
    network = ResNet8()
    network.load_state_dict(load_file(path))
    return network.eval()


def make(data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """Train, measure once, write the weights and, beside them, what they came to."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network = ResNet8()
    nn.Module.to(network, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = example.load_split(data, "train")
    # bfloat16 halves the time where the processor has it. Cached casts would go stale in a loop.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        example.train(network, images, labels, epochs=epochs, seed=SEED)
    found = example.accuracy(network, *example.load_split(data, "t10k"))
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, out)
    facts = {
        "test_accuracy": found,
        "test_images": 10_000,
        "epochs": epochs,
        "seed": SEED,
        "parameters": sum(p.numel() for p in network.parameters()),
        "torch": torch.__version__,
    }
    out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.resnet8")
    parser.add_argument("--data", type=Path, default=example.DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    print(json.dumps(make(arguments.data, arguments.out, arguments.epochs)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
