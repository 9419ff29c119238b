"""Make the example's ``model.onnx`` and ``images.npz.xz``: a small network on small images.

    python make.py            # a few seconds on one core

Fashion-MNIST images of the sibling example, averaged over 2x2 blocks to 14x14, and a
perceptron with two hidden layers. What a user of the example gets is only the .onnx file: it
stands for a model whose training code is gone.
"""

from __future__ import annotations

import io
import lzma
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent
SUBSET = HERE.parent / "fashion_mnist" / "fashion_mnist_subset.npz.xz"
CALIBRATION, GUARD, TEST = 512, 1_500, 2_000
HELD = CALIBRATION + GUARD
"""Training images that the network never sees: ranges and choices come from new ones."""
EPOCHS, BATCH, SEED = 16, 64, 1


def shrink(images: np.ndarray) -> np.ndarray:
    """Images [N, 28, 28] uint8 to [N, 196] uint8, each value the rounded mean of 2x2."""
    blocks = images.reshape(len(images), 14, 2, 14, 2).astype(np.float32)
    small: np.ndarray = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
    return small.reshape(len(images), 196)


def main() -> int:
    """Train, export and write both files."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    packed = lzma.decompress(SUBSET.read_bytes())
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        content = {key: archive[key] for key in archive.files}
    train, answers = shrink(content["train_images"]), content["train_labels"].astype(np.int64)
    test, test_answers = shrink(content["t10k_images"]), content["t10k_labels"].astype(np.int64)
    model = nn.Sequential(
        nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    fit(model, train[HELD:], answers[HELD:])
    write_model(model, HERE / "model.onnx")
    packed_images = io.BytesIO()
    np.savez(
        packed_images,
        calibration_inputs=train[:CALIBRATION],
        calibration_labels=answers[:CALIBRATION].astype(np.uint8),
        test_inputs=test[:TEST],
        test_labels=test_answers[:TEST].astype(np.uint8),
        guard_inputs=train[CALIBRATION:HELD],
        guard_labels=answers[CALIBRATION:HELD].astype(np.uint8),
    )
    (HERE / "images.npz.xz").write_bytes(lzma.compress(packed_images.getvalue(), preset=9))
    with torch.inference_mode():
        outputs = model(torch.from_numpy(test[:TEST].astype(np.float32) / 255.0)).numpy()
    accuracy = (outputs.argmax(1) == test_answers[:TEST]).mean()
    print(f"accuracy on {TEST} test images: {accuracy:.4f}")
    return 0


def fit(model: nn.Module, images: np.ndarray, answers: np.ndarray) -> None:
    """Train in place: Adam under a one-cycle schedule."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.from_numpy(images.astype(np.float32) / 255.0)
    labels = torch.from_numpy(answers)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def write_model(model: nn.Module, path: Path) -> None:
    """Export with a free batch axis."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own retirement
        torch.onnx.export(
            model.eval(),
            (torch.zeros(2, 196),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
        )


if __name__ == "__main__":
    raise SystemExit(main())
