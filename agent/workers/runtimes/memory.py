"""The runtime's in-memory twin: ``y = W x + b`` from a JSON file.

    {"weight": [[…]], "bias": […], "shape": [-1, 4], "coverage": 0.0,
     "input": {"dtype": "int8", "scale": 0.1, "zero_point": 0}, "output": {…}}

``shape`` is the input's; everything but the first axis is flattened. ``input`` and ``output``
may be left out for float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.jobs import RuntimeOptions
from agent.workers.runtimes import base
from agent.workers.runtimes.base import Array, Float, Model, Tensor
from fitment.core.bundle import IoSpec

VERSION = "1.0.0"


class MemorySession:
    """An affine model in numpy."""

    coverage_by = ""

    def __init__(self, model: Model) -> None:
        content = model if isinstance(model, bytes) else model.read_bytes()
        try:
            spec = json.loads(content)
            self._weight = np.asarray(spec["weight"], dtype=np.float32)
            self._bias = np.asarray(spec["bias"], dtype=np.float32)
            shape = tuple(int(size) for size in spec["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise base.load_error("the in-memory runtime", error) from error
        self.inputs = (_tensor("x", shape, spec.get("input", {})),)
        self.outputs = (_tensor("y", (shape[0], len(self._bias)), spec.get("output", {})),)
        self._coverage: float | None = spec.get("coverage")

    @property
    def version(self) -> str:
        return VERSION

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        pairs = zip(self.inputs, inputs, strict=True)
        return [base.to_native(tensor, values) for tensor, values in pairs]

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        (feed,) = feeds
        real = base.to_real(self.inputs[0], feed).reshape(len(feed), -1)
        with np.errstate(all="ignore"):  # like a real runtime: what is not finite is for `check`
            outputs = real @ self._weight.T + self._bias
        return [base.to_native(self.outputs[0], outputs)]

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        pairs = zip(self.outputs, self.raw(self.prepare(inputs)), strict=True)
        return [base.to_real(tensor, values) for tensor, values in pairs]

    def integer_coverage(self) -> float | None:
        return self._coverage

    def close(self) -> None:
        """Nothing is held."""


class MemoryRuntime:
    """Loads the JSON described above."""

    version = VERSION

    def load(
        self,
        model: Model,
        options: RuntimeOptions,  # noqa: ARG002 - part of the protocol
        *,
        io: IoSpec | None = None,  # noqa: ARG002 - part of the protocol
    ) -> MemorySession:
        return MemorySession(model)


def _tensor(name: str, shape: tuple[int, ...], spec: Mapping[str, Any]) -> Tensor:
    return Tensor(
        name=name,
        dtype=spec.get("dtype", "float32"),
        shape=shape,
        scale=spec.get("scale"),
        zero_point=spec.get("zero_point", 0),
    )
