"""Local samples for calibration: reading them, and whether they are worth calibrating on.

A correction fitted to one repeated picture, to a covered lens or to a black night would be worse
than none. The tests here use neither labels nor the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.workers.child import JobError
from agent.workers.installed import scaled
from agent.workers.runtimes.base import Array, Float, Tensor
from fitment.core.bundle import GoldenSpec

MAX_SAMPLES = 1024
"""More bring nothing that moments can show, and memory is short."""

DISTINCT_SHARE_MIN = 0.5  # of the samples, after rounding to 8 bits
ALIKE_CORRELATION = 0.95  # median over pairs: a fixed camera before a still scene is above it
NOISE_FACTOR = 2.0
"""Pixels drawn independently already vary by ``std / sqrt(pixels)`` from sample to sample."""

_PAIRS = 128


def read(folder: Path, tensor: Tensor, golden: GoldenSpec | None, *, seed: int) -> Float:
    """All ``.npy`` files of a folder as real values ``[N, …]`` in the model's input layout.

    In the order in which the files were written last, so that what changed meanwhile can be told.

    Integers are scaled like the bundle's golden inputs. Above `MAX_SAMPLES` a random choice.

    Raises:
        JobError: ``samples_invalid``; the folder is missing, or a file does not fit the input.
    """
    if not folder.is_dir():
        raise _invalid(f"there is no folder {folder}: set the slot's sample folder")
    paths = sorted(folder.glob("*.npy"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    parts = [_read_one(path, tensor, golden) for path in paths]
    if not parts:
        return np.zeros((0, *_sample_shape(tensor)), dtype=np.float32)
    samples = np.concatenate(parts)
    if len(samples) > MAX_SAMPLES:
        chosen = np.random.default_rng(seed).choice(len(samples), MAX_SAMPLES, replace=False)
        samples = samples[np.sort(chosen)]
    return samples


def sameness(samples: Float, *, min_std: float) -> str:
    """Why the samples are too much alike to calibrate on; empty when they are not.

    ``min_std``: the contrast within a sample below which no allowed gain could restore it.
    """
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    contrast = float(np.median(flat.std(axis=1)))
    if contrast < min_std:
        return (
            f"the samples have almost no contrast (typically {contrast:.3g}, at least "
            f"{min_std:.3g} is needed): a dark or covered sensor"
        )
    distinct = _distinct(flat)
    needed = int(np.ceil(DISTINCT_SHARE_MIN * len(flat)))
    if distinct < needed:
        return f"only {distinct} of {len(flat)} samples differ, {needed} must: a stuck input"
    likeness = _median_correlation(flat)
    if likeness > ALIKE_CORRELATION:
        return (
            f"the samples show the same scene (typical correlation {likeness:.2f}, at most "
            f"{ALIKE_CORRELATION})"
        )
    return _noise(flat)


def _noise(flat: Array) -> str:
    """Whether samples vary from one to the next no more than independent noise would.

    For ``p`` independent values of deviation ``s`` the means of samples scatter by
    ``s / sqrt(p)`` and their deviations by about ``s / sqrt(2 p)``.
    """
    spread = float(flat.std())
    pixels = flat.shape[1]
    of_means = float(flat.mean(axis=1).std()) / (spread / np.sqrt(pixels))
    of_deviations = float(flat.std(axis=1).std()) / (spread / np.sqrt(2 * pixels))
    if max(of_means, of_deviations) < NOISE_FACTOR:
        return "the samples vary no more than noise does: a dark or covered sensor"
    return ""


def _distinct(flat: Array) -> int:
    low, high = float(flat.min()), float(flat.max())
    rounded = np.rint((flat - low) / max(high - low, 1e-30) * 255).astype(np.uint8)
    return len({row.tobytes() for row in rounded})


def _median_correlation(flat: Array) -> float:
    """Median over random pairs of the absolute correlation of two samples."""
    centred = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    chosen = np.random.default_rng(0).integers(0, len(flat), size=(_PAIRS, 2))
    first, second = chosen[chosen[:, 0] != chosen[:, 1]].T
    products = np.einsum("ij,ij->i", centred[first], centred[second])
    lengths = norms[first] * norms[second]
    known = lengths > 0
    return float(np.median(np.abs(products[known] / lengths[known]))) if known.any() else 1.0


def _read_one(path: Path, tensor: Tensor, golden: GoldenSpec | None) -> Float:
    try:
        stored: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} is no readable .npy file: {error}") from error
    shape = _sample_shape(tensor)
    if stored.ndim == len(shape):
        stored = stored[np.newaxis]
    pairs = zip(shape, stored.shape[1:], strict=False)
    fits = stored.ndim == len(shape) + 1 and all(want in (-1, got) for want, got in pairs)
    if not fits or stored.dtype.kind not in "fiu":
        raise _invalid(
            f"{path} holds {stored.dtype} of shape {stored.shape}; samples have shape {shape}, "
            "or [N, …] of that"
        )
    values = scaled(stored, golden)
    if not np.isfinite(values).all():
        raise _invalid(f"{path} holds values that are not finite")
    return values


def _sample_shape(tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape[1:]


def _invalid(message: str) -> JobError:
    return JobError("samples_invalid", message, permanent=True)
