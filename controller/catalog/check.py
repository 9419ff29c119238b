"""Validation: whether a workload can be fitted, found out once, at registration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import answer, likeness
from controller.catalog.workload import (
    CALIBRATION,
    GUARD,
    MUST_PASS,
    TEST,
    TRAIN,
    Split,
    Workload,
)
from controller.domain.fleet import Budget
from controller.errors import WorkloadError
from fitment.core import digest

MIN_CALIBRATION = 16
FEW = 200
CHECKED_INPUTS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What validation found out. JSON-ready: a worker hands it to the controller."""

    name: str
    version: str
    source: str  # "torch", "onnx" or "pt2"
    input_shapes: Mapping[str, tuple[int, ...]]  # by name; one without a name is ''
    output_shape: tuple[int, ...]
    counts: Mapping[str, int]  # samples by split; no "train": none
    digests: Mapping[str, str]  # of the data by split
    metric: float  # of the fp32 model, on test samples
    metric_samples: int
    budget: Budget = field(default_factory=Budget)
    profile_budgets: Mapping[str, Budget] = field(default_factory=dict)
    calibrate_profiles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def validate(workload: Workload, *, threads: int = 1) -> Facts:
    """Run everything a fit needs, on few samples, and check that the sets are disjoint.

    Raises:
        WorkloadError: the first thing that does not hold, and how to mend it.
    """
    splits = load_splits(workload)
    check_disjoint(workload.name, splits)
    source = workload.source()
    test = splits[TEST]
    count = min(len(test), CHECKED_INPUTS)
    outputs = answer.outputs(workload, source, test.inputs[:count], threads=threads)
    _check_labels(workload, outputs, test)
    return Facts(
        name=workload.name,
        version=workload.version,
        source=(source.suffix[1:] or "onnx") if isinstance(source, Path) else "torch",
        input_shapes=_by_name(workload),
        output_shape=tuple(int(n) for n in outputs.shape[1:]),
        counts={name: len(split) for name, split in splits.items()},
        digests={name: split_digest(split) for name, split in splits.items()},
        metric=workload.metric(outputs, test.labels[:count]),
        metric_samples=count,
        budget=workload.budget,
        profile_budgets=workload.profile_budgets,
        calibrate_profiles=workload.calibrate_profiles,
        labels=workload.labels,
        notes=_notes(splits, from_onnx=isinstance(source, Path)),
    )


def load_splits(workload: Workload) -> dict[str, Split]:
    """All splits by name, the optional ones where the workload brings them.

    Raises:
        WorkloadError: a split cannot be had, or a calibration set is too small.
    """
    splits = {name: workload.data(name) for name in (CALIBRATION, GUARD, TEST)}
    for name in (CALIBRATION, GUARD):
        if len(splits[name]) < MIN_CALIBRATION:
            raise WorkloadError(
                f"{workload.name}: data('{name}') gives {len(splits[name])} samples; at least "
                f"{MIN_CALIBRATION} are needed, and 500 or more are better"
            )
    for name in (TRAIN, MUST_PASS):
        optional = workload.optional_data(name)
        if optional is not None:
            splits[name] = optional
    for name, split in splits.items():
        check_numbers(workload.name, name, split.inputs)
    return splits


def check_numbers(workload: str, split: str, inputs: NDArray[Any]) -> None:
    """Refuse inputs with NaN: every range that is set on them is NaN as well.

    Infinity passes: a mask that is fed may hold it.

    Raises:
        WorkloadError: naming the split and the first of its samples.
    """
    fields = [inputs[name] for name in inputs.dtype.names] if inputs.dtype.names else [inputs]
    bad = np.zeros(len(inputs), dtype=bool)
    for values in fields:
        if np.issubdtype(values.dtype, np.floating):
            bad |= np.isnan(values).reshape(len(inputs), -1).any(axis=1)
    if bad.any():
        raise WorkloadError(
            f"{workload}: data('{split}') holds NaN in sample {int(bad.argmax())} (counted from"
            f" 0), {int(bad.sum())} of {len(inputs)} in all; mend or leave out such samples"
        )


def check_disjoint(name: str, splits: Mapping[str, Split]) -> None:
    """Refuse sets that share samples: a guard that was calibrated on guards nothing.

    Raises:
        WorkloadError: two sets share samples.
    """
    seen = {split: _samples(splits[split].inputs) for split in splits}
    held_out = ((CALIBRATION, GUARD), (CALIBRATION, TEST), (GUARD, TEST))
    for one, other in (*held_out, (TRAIN, GUARD), (TRAIN, TEST)):
        if one not in seen or other not in seen:
            continue
        shared = seen[one] & seen[other]
        # A few equal samples are in most public data sets; one in a hundred is a mistake.
        if len(shared) > 0.01 * min(len(splits[one]), len(splits[other])):
            raise WorkloadError(
                f"{name}: data('{one}') and data('{other}') share {len(shared)} samples; "
                "take them from separate parts of the data"
            )


def split_digest(split: Split) -> str:
    """Digest of inputs and labels with their types and shapes."""
    parts = []
    for array in (split.inputs, split.labels):
        kind = array.dtype.descr if array.dtype.names else array.dtype.str
        parts.append(f"{kind}{array.shape}".encode())
        parts.append(np.ascontiguousarray(array).tobytes())
    return digest.digest_chunks(parts)


def _by_name(workload: Workload) -> Mapping[str, tuple[int, ...]]:
    shape = workload.input_shape
    return shape if isinstance(shape, Mapping) else {"": shape}


def _samples(inputs: NDArray[Any]) -> frozenset[int]:
    # Python's hash of bytes is 64 bits wide and fast; it only has to agree within this process.
    return frozenset(hash(sample.tobytes()) for sample in np.ascontiguousarray(inputs))


def _check_labels(workload: Workload, outputs: NDArray[np.float32], test: Split) -> None:
    if not workload.labels:
        return
    if outputs.ndim != 2 or outputs.shape[1] != len(workload.labels):
        raise WorkloadError(
            f"{workload.name}: `labels` names {len(workload.labels)} classes but the model's "
            f"outputs have shape (N, {', '.join(map(str, outputs.shape[1:]))})"
        )
    if np.issubdtype(test.labels.dtype, np.integer) and test.labels.ndim == 1:
        highest = int(test.labels.max())
        if highest >= len(workload.labels) or int(test.labels.min()) < 0:
            raise WorkloadError(
                f"{workload.name}: data('test') holds the label {highest}, but `labels` names "
                f"only {len(workload.labels)} classes, numbered from 0"
            )


def _few(name: str, count: int) -> str:
    """A share of ``count`` samples has a 95 % interval of at most 1.96 × sqrt(1/4 / count)."""
    said = f"data('{name}') gives only {count} samples"
    if name == CALIBRATION:
        return f"{said}: ranges set on so few may be too narrow; 500 or more are better"
    points = 98.0 / math.sqrt(max(1, count))
    return f"{said}: a share of them is known to within {points:.1f} points at worst"


def _notes(splits: Mapping[str, Split], *, from_onnx: bool) -> tuple[str, ...]:
    notes = [_few(name, len(splits[name])) for name in (CALIBRATION, GUARD, TEST)
             if len(splits[name]) < FEW]  # fmt: skip
    other = likeness.difference(splits[CALIBRATION], splits[GUARD])
    if other:
        notes.append(
            f"data('{CALIBRATION}') and data('{GUARD}') differ ({other}): ranges set on the one "
            "need not hold on the other; take both from what devices will see"
        )
    if from_onnx:
        notes.append("a file as source: it is quantized, but not pruned or distilled")
    elif TRAIN not in splits:
        notes.append("no training split: pruned variants recover on calibration inputs alone")
    return tuple(notes)
