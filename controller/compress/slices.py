"""Evidence by parts of the data: classes, the user's own slices, flips, inputs that must be right.

An accuracy that holds on the whole can hide a class that was ruined. Every part is compared with
fp32 on the same inputs, on the guard set (which may choose) and on the test set (which may not).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from controller.catalog.workload import GUARD, TEST, Split, Workload
from controller.domain.evidence import SliceEvidence
from controller.errors import WorkloadError

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def gather(
    workload: Workload,
    splits: Mapping[str, Split],
    found: Mapping[str, Array],
    reference: Mapping[str, Array],
) -> tuple[SliceEvidence, ...]:
    """Figures of every class and named slice that has inputs in both sets.

    Args:
        workload: its metric judges each part.
        splits: by name; guard and test are used.
        found: outputs [N, …] of the variant, by split.
        reference: outputs of fp32 on the same inputs.

    Raises:
        WorkloadError: ``slices(split)`` or the metric fails.
    """
    masks = {name: _masks(workload, name, splits[name], found[name]) for name in (GUARD, TEST)}
    made = []
    for name in masks[GUARD]:
        if name not in masks[TEST]:
            continue
        figures = {}
        for split in (GUARD, TEST):
            mask, labels = masks[split][name], splits[split].labels
            figures[split] = tuple(
                workload.metric(outputs[split][mask], labels[mask])
                for outputs in (reference, found)
            )
        made.append(
            SliceEvidence(
                name=name,
                guard_count=int(masks[GUARD][name].sum()),
                guard_fp32=figures[GUARD][0],
                guard_value=figures[GUARD][1],
                test_count=int(masks[TEST][name].sum()),
                test_fp32=figures[TEST][0],
                test_value=figures[TEST][1],
            )
        )
    return tuple(made)


def flips(reference: Array, found: Array, labels: NDArray[np.generic]) -> float | None:
    """Share of inputs that fp32 gets right and the variant wrong; None without class numbers."""
    if not classes(found, labels):
        return None
    right = reference.argmax(axis=1) == labels
    wrong = found.argmax(axis=1) != labels
    return float((right & wrong).mean())


def must_pass(name: str, reference: Array, found: Array, labels: NDArray[np.generic]) -> int:
    """How many inputs of the must-pass set the variant gets wrong though fp32 gets them right.

    Raises:
        WorkloadError: there are no class numbers, so right and wrong cannot be told.
    """
    if not classes(found, labels):
        raise WorkloadError(
            f"{name}: data('must_pass') needs whole class numbers as labels, and class scores"
            " (N, classes) as outputs; leave the split out"
        )
    right = reference.argmax(axis=1) == labels
    return int((right & (found.argmax(axis=1) != labels)).sum())


def classes(outputs: Array, labels: NDArray[np.generic]) -> bool:
    """Whether outputs are class scores and labels are class numbers."""
    scores = outputs.ndim == 2 and outputs.shape[1] > 1
    return scores and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)


def _masks(workload: Workload, split: str, data: Split, outputs: Array) -> dict[str, Mask]:
    """Which inputs belong to which part; parts without inputs are left out."""
    made: dict[str, Mask] = {}
    if classes(outputs, data.labels):
        for number in np.unique(data.labels):
            known = 0 <= number < len(workload.labels)
            made[f"class {workload.labels[number] if known else number}"] = data.labels == number
    made.update(workload.slices(split, len(data)))
    return {name: mask for name, mask in made.items() if mask.any()}
