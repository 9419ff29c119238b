"""What Fitment needs of a runtime: one small protocol, spoken in real (float32) values.

Files with quantized inputs and outputs are converted inside: ``q = round(x / scale) +
zero_point``, clipped to the type, and back by ``x = scale * (q - zero_point)``. The timed path
(`Session.raw`) takes what `Session.prepare` made and converts nothing, for an application on the
device feeds the runtime's own type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from agent.jobs import RuntimeOptions
from agent.workers.child import JobError
from fitment.core.bundle import IoSpec, TensorSpec

Array: TypeAlias = npt.NDArray[Any]
Float: TypeAlias = npt.NDArray[np.float32]
Model: TypeAlias = Path | bytes
"""A runtime file on disk, or its bytes when an overlay was applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output as the runtime has it."""

    name: str
    dtype: str  # numpy name
    shape: tuple[int, ...]  # -1 where any size goes
    scale: float | None = None  # set when real = scale * (q - zero_point)
    zero_point: int = 0

    @property
    def batch(self) -> int:
        """Samples that one run takes; 1 where any number goes or there is no such axis."""
        return self.shape[0] if self.shape and self.shape[0] > 0 else 1


class Session(Protocol):
    """A loaded model. Not safe for use by several threads at once."""

    @property
    def version(self) -> str:
        """Version of the runtime, ``1.32.0``."""
        ...

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[Tensor, ...]: ...

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        """Real values in the model's layout to arrays of the inputs' own types."""
        ...

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        """Run on what `prepare` made; outputs in their own types. This is what is timed."""
        ...

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        """Real values in, real values out; one array an output, first axis the samples."""
        ...

    @property
    def coverage_by(self) -> str:
        """What `integer_coverage` is told by, where that is not what ran; else empty."""
        ...

    def integer_coverage(self) -> float | None:
        """Share of heavy operators (convolutions, matrix products) that run in integers.

        0.0 for a model in float; None when the runtime does not tell or there are none.
        """
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    """Loads models of one format."""

    @property
    def version(self) -> str: ...

    def load(self, model: Model, options: RuntimeOptions, *, io: IoSpec | None = None) -> Session:
        """Load ``model``; ``io`` tells scales where the file itself does not.

        Raises:
            JobError: ``load_failed`` (the runtime refuses the file), ``input_mismatch``.
        """
        ...


def described(name: str, dtype: str, shape: Sequence[int], *, io: Sequence[TensorSpec]) -> Tensor:
    """A tensor whose file does not tell its scale, completed from the bundle's description."""
    spec = next((item for item in io if item.name == name), None)
    scale = spec.scale if spec is not None else None
    zero_point = spec.zero_point if spec is not None and spec.zero_point is not None else 0
    return Tensor(name=name, dtype=dtype, shape=tuple(shape), scale=scale, zero_point=zero_point)


def to_native(tensor: Tensor, values: Array) -> Array:
    """Real values to the tensor's type, contiguous.

    Raises:
        JobError: code ``input_mismatch``; the values do not have the tensor's shape.
    """
    _check_shape(tensor, values.shape)
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=dtype)
    real = np.asarray(values, dtype=np.float64)
    if tensor.scale is not None:
        real = real / tensor.scale + tensor.zero_point
    if dtype.kind == "b":
        return np.ascontiguousarray(real != 0)
    limits = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.rint(real), limits.min, limits.max).astype(dtype))


def to_real(tensor: Tensor, values: Array) -> Float:
    """The tensor's type to real values."""
    if tensor.scale is None:
        return np.asarray(values, dtype=np.float32)
    real = (values.astype(np.float64) - tensor.zero_point) * tensor.scale
    return np.asarray(real, dtype=np.float32)


def load_error(what: str, error: Exception) -> JobError:
    """A runtime refused a file. Another try with the same file and runtime cannot help."""
    return JobError("load_failed", f"{what} cannot load the model: {error}", permanent=True)


def heavy_share(heavy: Mapping[str, bool], operators: Sequence[str]) -> float | None:
    """Share of ``operators`` that ``heavy`` calls integer, among those it knows."""
    known = [heavy[name] for name in operators if name in heavy]
    return sum(known) / len(known) if known else None


def _check_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    pairs = zip(tensor.shape, shape, strict=False)
    fits = len(tensor.shape) == len(shape) and all(want in (-1, got) for want, got in pairs)
    if not fits:
        raise JobError(
            "input_mismatch",
            f"input '{tensor.name}' has shape {tensor.shape}, got values of shape {shape}",
            permanent=True,
        )
