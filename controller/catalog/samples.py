"""Samples: one array [N, …], or several named ones a sample.

Several inputs are kept as one structured array [N] with a field for each, so that they are cut,
shuffled, hashed and written to ``.npy`` (without pickling) as one input is. A field is what one
run takes, its batch axis included where the model has one; a record therefore is a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import WorkloadError
from fitment.core.bundle import ONNX_DTYPES

Array = NDArray[Any]
Shape = tuple[int, ...]
Shapes = Shape | Mapping[str, Shape]

_SINGLE = (np.uint8, np.float32, np.float64, np.int32, np.int64)
_NAMED = (*_SINGLE, np.int8, np.uint16, np.int16, np.float16, np.bool_)


def names(inputs: Array) -> tuple[str, ...]:
    """Names of the inputs where there are several, else nothing."""
    return inputs.dtype.names or ()


def is_whole(inputs: Array) -> bool:
    """Whether inputs are whole numbers with a meaning of their own, such as tokens."""
    return inputs.dtype in (np.dtype(np.int32), np.dtype(np.int64))


def stored(workload: str, split: str, given: Any, shapes: Shapes) -> Array:
    """The inputs of a split as they are kept.

    Args:
        workload: its name, for messages.
        split: its name, for messages.
        given: what ``data(split)`` gave.
        shapes: what the workload says of one sample.

    Raises:
        WorkloadError: names, shapes or types do not fit.
    """
    where = f"{workload}: data('{split}')"
    if not isinstance(shapes, Mapping):
        return _one(where, given, shapes, "inputs", _SINGLE)
    if not isinstance(given, Mapping) or set(given) != set(shapes):
        found = ", ".join(given) if isinstance(given, Mapping) else type(given).__name__
        raise WorkloadError(
            f"{where} gives {found}; a dict of arrays is needed, one each for "
            f"{', '.join(shapes)}, as `input_shape` says"
        )
    arrays = {n: _one(where, given[n], shapes[n], f"'{n}'", _NAMED) for n in shapes}
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise WorkloadError(f"{where} gives inputs of {sorted(counts)} samples; all need the same")
    return packed(arrays)


def packed(arrays: Mapping[str, Array]) -> Array:
    """Arrays [N, …] of equal N as one structured array [N]."""
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    whole = np.zeros(len(next(iter(arrays.values()))), dtype=kinds)
    for name, array in arrays.items():
        whole[name] = array
    return whole


def feed(entries: Sequence[Any], inputs: Array) -> dict[str, Array]:
    """What an onnxruntime session takes for samples, each in the input's own type.

    Args:
        entries: the session's ``get_inputs()``.
        inputs: real inputs [N, …]; with several inputs one record, [1].

    Raises:
        WorkloadError: the model has other inputs than the samples.
    """
    wanted = [entry.name for entry in entries]
    known = names(inputs)
    if not known and len(wanted) == 1:
        return {wanted[0]: _typed(inputs, entries[0])}
    if set(wanted) != set(known):
        raise WorkloadError(
            f"the model has the inputs {', '.join(wanted)}; `input_shape` names "
            f"{', '.join(known) or 'one without a name'}: give a dict of shapes and of arrays"
        )
    return {entry.name: _typed(inputs[entry.name][0], entry) for entry in entries}


def run_size(entries: Sequence[Any], inputs: Array, wanted: int) -> int:
    """How many samples one run takes: 1 of several inputs, else the fixed first axis or any."""
    if names(inputs):
        return 1
    first = entries[0].shape[0] if entries and entries[0].shape else None
    return first if isinstance(first, int) else wanted


def rows(output: Array, count: int) -> Array:
    """An output as rows [count, …]; a run of one sample need not have an axis for it."""
    values = np.asarray(output)
    whole = count != 1 or (values.ndim > 0 and len(values) == 1)
    return values if whole else values[None]


def _typed(values: Array, entry: Any) -> Array:
    """Contiguous, without losing the axes of a scalar."""
    return np.asarray(values, ONNX_DTYPES.get(entry.type, "float32"), order="C")


def _one(
    where: str, given: Any, shape: Shape, what: str, kinds: tuple[type[np.generic], ...]
) -> Array:
    inputs = np.asarray(given)
    if inputs.ndim == 0 or inputs.shape[1:] != shape or len(inputs) == 0:
        raise WorkloadError(
            f"{where} gives {what} of shape {inputs.shape}; expected "
            f"({', '.join(('N', *map(str, shape)))}) with N >= 1, as `input_shape` says"
        )
    if inputs.dtype not in kinds:
        raise WorkloadError(
            f"{where} gives {inputs.dtype} {what}; store them as "
            "float32, as uint8 with `input_scale`, or tokens as int64"
        )
    return inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
