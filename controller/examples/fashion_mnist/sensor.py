"""A camera that is darker than the one the model was trained on, and samples from it.

    python sensor.py --folder samples --count 256 --gain 0.5

The demo's small device has such a camera: its setting is ``gain``, by which every pixel is
multiplied and rounded. The samples are what the device's own calibration works from.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sensor_gain(images: NDArray[Any], gain: float) -> NDArray[np.uint8]:
    """Images (uint8, any shape) as a sensor with ``gain`` sees them: rounded and clipped."""
    if gain <= 0:
        raise ValueError(f"a gain is positive, not {gain}")
    seen: NDArray[np.uint8] = np.clip(np.rint(images * np.float32(gain)), 0, 255).astype(np.uint8)
    return seen


def export_samples(folder: Path, count: int, gain: float) -> list[Path]:
    """Write ``count`` training images seen with ``gain`` to ``folder``, one float32 ``.npy`` each.

    The samples are in the model's own units, [1, 28, 28] in 0..1, and are none of the
    calibration, guard or test images of the workload. Modification times are a minute apart,
    since calibration wants samples that span time.
    """
    inputs, _ = _workload().data("train")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, image in enumerate(sensor_gain(inputs[-count:], gain)):
        path = folder / f"sample-{index:05d}.npy"
        np.save(path, image.astype(np.float32) / np.float32(255.0), allow_pickle=False)
        moment = path.stat().st_mtime - 60.0 * (count - index)
        os.utime(path, (moment, moment))
        written.append(path)
    return written


def _workload() -> types.ModuleType:
    path = Path(__file__).with_name("workload.py")
    spec = importlib.util.spec_from_file_location("fashion_workload", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: list[str] | None = None) -> int:
    """Write the samples."""
    parser = argparse.ArgumentParser(description="Write samples of a darker camera.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--gain", type=float, default=0.5)
    arguments = parser.parse_args(argv)
    written = export_samples(arguments.folder, arguments.count, arguments.gain)
    print(f"{len(written)} samples in {arguments.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
