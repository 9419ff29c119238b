"""Evidence: what is known of a variant, beside its cost.

Figures on the guard set may choose; figures on the test set are reported and choose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.catalog.workload import GUARD, MUST_PASS, TEST, Split, Workload
from controller.compress import operating, slices
from controller.compress.statistics import wilson
from controller.domain.evidence import OperatingPoint, SliceEvidence
from controller.errors import FitError

Array = NDArray[np.float32]
RESAMPLES = 200
CLOSE = 0.05  # share of the reference's range within which single outputs agree


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Outputs [N, …] on the guard and the test set."""

    guard: Array
    test: Array
    must_pass: Array | None = None  # None: the workload has no such set


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Figures of one variant."""

    accuracy: float  # the workload's metric on the test set
    accuracy_interval: tuple[float, float]  # 95 %
    guard_accuracy: float
    guard_accuracy_interval: tuple[float, float]  # 95 %
    guard_accuracy_drop: float  # fp32 minus this one, on the guard set
    agreement: float
    guard_agreement: float
    sqnr_db: float | None  # None: the outputs are exactly those of fp32
    slices: tuple[SliceEvidence, ...] = ()
    flips: float | None = None
    guard_flips: float | None = None
    must_pass_failed: int | None = None
    operating: OperatingPoint | None = None


def gather(
    workload: Workload, splits: dict[str, Split], found: Outputs, reference: Outputs, *, seed: int
) -> Evidence:
    """Compare a variant's outputs with labels and with fp32's outputs.

    Raises:
        FitError: the outputs have another shape than fp32's or are not finite.
        WorkloadError: the workload's metric fails.
    """
    for name in ("guard", "test"):
        one, other = getattr(found, name), getattr(reference, name)
        if one.shape != other.shape:
            raise FitError(f"the variant answers with shape {one.shape}, fp32 with {other.shape}")
        if not np.isfinite(one).all():
            raise FitError("the variant gives NaN or infinity")
    test, guard = splits[TEST], splits[GUARD]
    ours = {GUARD: found.guard, TEST: found.test}
    theirs = {GUARD: reference.guard, TEST: reference.test}
    parts = slices.gather(workload, splits, ours, theirs)
    accuracy = workload.metric(found.test, test.labels)
    guard_accuracy = workload.metric(found.guard, guard.labels)
    guard_reference = workload.metric(reference.guard, guard.labels)
    return Evidence(
        accuracy=accuracy,
        accuracy_interval=interval(workload.metric, found.test, test.labels, accuracy, seed=seed),
        guard_accuracy=guard_accuracy,
        guard_accuracy_interval=interval(
            workload.metric, found.guard, guard.labels, guard_accuracy, seed=seed
        ),
        guard_accuracy_drop=guard_reference - guard_accuracy,
        agreement=agreement(reference.test, found.test),
        guard_agreement=agreement(reference.guard, found.guard),
        sqnr_db=sqnr_db(reference.test, found.test),
        slices=parts,
        flips=slices.flips(reference.test, found.test, test.labels),
        guard_flips=slices.flips(reference.guard, found.guard, guard.labels),
        must_pass_failed=_must_pass(workload, splits, found, reference),
        operating=operating.gather(workload, splits, ours, theirs),
    )


def _must_pass(
    workload: Workload, splits: dict[str, Split], found: Outputs, reference: Outputs
) -> int | None:
    if MUST_PASS not in splits or found.must_pass is None or reference.must_pass is None:
        return None
    labels = splits[MUST_PASS].labels
    return slices.must_pass(workload.name, reference.must_pass, found.must_pass, labels)


def flattered(
    guard: float, guard_interval: tuple[float, float], test: float,
    test_interval: tuple[float, float],
) -> str:  # fmt: skip
    """Why the guard set flatters fp32, or nothing.

    A network remembers what it was trained on, and forgets some of that when it is compressed: a
    drop on such inputs is larger than on new ones. It is said where the 95 % intervals of the
    metric on both sets lie apart, which chance alone seldom does.
    """
    if guard_interval[0] <= test_interval[1]:
        return ""
    return (
        f"fp32 is right on {100 * guard:.2f} % of the guard inputs and on {100 * test:.2f} % of the"
        " test inputs: it was probably trained on the guard inputs, and drops on them are"
        " overstated; hold them out of training, or ask for a wider accuracy budget"
    )


def coarse(count: int, allowed: float | None) -> str:
    """Why a guard set is too small for the accuracy that a budget asks for, or nothing.

    A share of ``count`` inputs has a 95 % interval of at most 1.96 x sqrt(1/4 / count) either
    way, so ``(0.98 / allowed)^2`` inputs are told apart to ``allowed`` at worst.
    """
    width = 0.98 / math.sqrt(max(1, count))
    if not allowed or allowed >= width:
        return ""
    return (
        f"the budget allows a drop of {100 * allowed:.4g} points, and accuracy on {count} guard"
        f" inputs is known to within {100 * width:.1f} points at worst: a variant may keep to it,"
        f" or not, by chance; {math.ceil((0.98 / allowed) ** 2)} guard inputs would tell"
    )


def agreement(reference: Array, found: Array) -> float:
    """Share of inputs that get the same answer as from fp32, 0..1.

    Class scores [N, C]: the same highest class. Other outputs: all of an input's values within
    5 % of the reference's range.
    """
    if reference.ndim == 2 and reference.shape[1] > 1:
        return float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())
    spread = max(float(np.ptp(reference)), 1e-12)
    close = np.abs(reference - found).reshape(len(reference), -1) <= CLOSE * spread
    return float(close.all(axis=1).mean())


def sqnr_db(reference: Array, found: Array) -> float | None:
    """Signal to quantization noise: 10·log10(Σ ref² / Σ (ref − found)²), in dB.

    None when there is no noise at all.
    """
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - found).sum())
    if noise == 0.0 or signal == 0.0:
        return None
    return 10.0 * math.log10(signal / noise)


def interval(
    metric: Callable[[Array, NDArray[np.generic]], float],
    outputs: Array,
    labels: NDArray[np.generic],
    value: float,
    *,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of the metric: Wilson's when it is the share of right classes.

    Any other metric gets a seeded percentile bootstrap.
    """
    count = len(outputs)
    if outputs.ndim == 2 and outputs.shape[1] > 1 and labels.shape == (count,):
        right = int((outputs.argmax(axis=1) == labels).sum())
        if abs(right / count - value) < 1e-9:
            return wilson(right, count)
    draws = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    values = [metric(outputs[draw], labels[draw]) for draw in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
