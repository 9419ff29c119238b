"""Fashion-MNIST: ten kinds of clothing in 28x28 grey images. A complete workload.

Everything that Fitment needs of a model is in this file, under fixed names; it imports nothing
of Fitment. Run nothing here by hand: ``fitment fit workload.py`` and ``fitment model register
workload.py`` load it in a worker process.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
FULL_DATA = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist

name = "fashion_mnist"
version = "1.0.0"
files = ["network.py", "weights.safetensors", "fashion_mnist_subset.npz.xz"]

input_name = "images"
input_shape = (1, 28, 28)
input_scale = 1.0 / 255.0  # images are stored as uint8; the network takes 0..1
labels = [
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip
preprocessing = {"color": "grey", "range": "0..1", "size": "28x28"}

budget = {"accuracy_drop_max": 0.03, "agreement_min": 0.9}
profile_budgets = {
    "raspberry-pi-5": {"wire_bytes_max": 400_000},
    "rk3588": {"file_bytes_max": 150_000},
    "imx93": {"file_bytes_max": 120_000, "peak_memory_max_bytes": 32 * 1024 * 1024},
}
calibrate_profiles = ["imx93"]  # cameras that differ from the one of the training images
recover = {"epochs": 4, "samples": 16_000, "learning_rate": 0.05, "temperature": 4.0, "alpha": 0.9}

# How the data is cut. Everything that chooses comes from the training file: ranges from the first
# 512 images, the guard from the next 2,048, recovery from the rest. Test images are only reported.
# The checkpoint has seen the guard images, so their accuracy flatters fp32 and a guard drop looks
# larger than it is on new images: an error on the safe side, and the budget below allows for it.
CALIBRATION_IMAGES = 512
GUARD_IMAGES = 2_048


def source() -> Any:
    """The trained network, in eval mode."""
    from safetensors.torch import load_file

    spec = importlib.util.spec_from_file_location("fashion_network", HERE / "network.py")
    if spec is None or spec.loader is None:
        raise ImportError("network.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.FashionNet()
    network.load_state_dict(load_file(HERE / "weights.safetensors"))
    return network.eval()


def data(split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images [N, 1, 28, 28] uint8 and labels [N] of one split."""
    images, answers = _file("t10k" if split == "test" else "train")
    end = CALIBRATION_IMAGES + GUARD_IMAGES
    chosen = {
        "calibration_a": slice(0, CALIBRATION_IMAGES),
        "calibration_b": slice(CALIBRATION_IMAGES, end),
        "train": slice(end, None),
        "test": slice(None),
    }[split]
    return images[chosen, None], answers[chosen]


def metric(outputs: NDArray[Any], answers: NDArray[Any]) -> float:
    """Share of images whose highest output is the right class."""
    return float((outputs.argmax(axis=1) == answers).mean())


@functools.lru_cache(maxsize=1)
def _subset() -> dict[str, NDArray[Any]]:
    packed = lzma.decompress((HERE / "fashion_mnist_subset.npz.xz").read_bytes())
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


@functools.lru_cache(maxsize=2)
def _file(part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Training ("train") or test ("t10k") images: all of them where Debian's package is installed.

    Otherwise the subset's: 10,000 and 5,000. Both begin with the same images, so the calibration
    and guard sets are the same either way.
    """
    images = FULL_DATA / f"{part}-images-idx3-ubyte.gz"
    answers = FULL_DATA / f"{part}-labels-idx1-ubyte.gz"
    if images.is_file() and answers.is_file():
        return _idx(images), _idx(answers).astype(np.int64)
    subset = _subset()
    return subset[f"{part}_images"], subset[f"{part}_labels"].astype(np.int64)


def _idx(path: Path) -> NDArray[Any]:
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
