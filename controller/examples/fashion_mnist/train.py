"""Train the example's checkpoint on the full Fashion-MNIST training set.

    python -m controller.examples.fashion_mnist.train --data DIR --out weights.safetensors

``DIR`` holds the four ``*-ubyte.gz`` files (Debian's package ``dataset-fashion-mnist`` puts
them in ``/usr/share/datasets/fashion-mnist``). The accuracy on the 10,000 test images is
written beside the weights. The test images are looked at once, after the last step: the
schedule is fixed in advance, so that they choose nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from controller.examples.fashion_mnist.network import WIDTHS, FashionNet

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed IDX file of unsigned bytes (the MNIST file format)."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load_split(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images ``[N, 1, 28, 28]`` in 0..1 and labels ``[N]`` of ``train`` or ``t10k``."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz").astype(np.float32) / 255.0
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64)
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels)


def augment(images: torch.Tensor, generator: torch.Generator, reach: int = 2) -> torch.Tensor:
    """Mirror half of the images and shift each by up to ``reach`` pixels (zeros come in)."""
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = functional.pad(images, (reach,) * 4)
    rows = torch.randint(0, 2 * reach + 1, (count,), generator=generator)
    columns = torch.randint(0, 2 * reach + 1, (count,), generator=generator)
    span = torch.arange(28)
    row_index = rows[:, None] + span
    column_index = columns[:, None] + span
    batch = torch.arange(count)[:, None, None]
    return padded[batch, 0, row_index[:, :, None], column_index[:, None, :]][:, None]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of ``images`` that ``model`` (put in eval mode) classifies as ``labels`` say."""
    model.eval()
    with torch.inference_mode():
        parts = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
        right = sum(int((model(part).argmax(1) == answer).sum().item()) for part, answer in parts)
    return right / len(labels)


def train(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epochs: int, seed: int
) -> None:
    """Train in place: SGD with Nesterov momentum under a one-cycle schedule."""
    generator = torch.Generator().manual_seed(seed)
    batch_size = 128
    steps = len(images) // batch_size
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.15, total_steps=epochs * steps, pct_start=0.2
    )
    for epoch in range(epochs):
        model.train()
        started, total = time.monotonic(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            batch = augment(images[chosen], generator).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Train, measure once, write the weights and their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=Path("weights.safetensors"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = FashionNet()
    nn.Module.to(model, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = load_split(arguments.data, "train")
    train(model, images, labels, epochs=arguments.epochs, seed=arguments.seed)
    test_accuracy = accuracy(model, *load_split(arguments.data, "t10k"))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, arguments.out)
    facts = {
        "test_accuracy": test_accuracy,
        "test_images": 10_000,
        "train_images": len(images),
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "widths": list(WIDTHS),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(arguments.out.read_bytes()).hexdigest(),
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
