"""A rung as the applications of its slot know the model: names and layout of the chosen variant.

A lesser variant may be of another runtime, whose file has images the other way round and other
names. Whoever calls must not notice the switch, so arrays are turned on their way in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from agent.domain.rungs import parted
from agent.slots import ACTIVE, CHOSEN
from agent.workers import installed
from agent.workers.child import JobError
from agent.workers.installed import Loaded
from agent.workers.runtimes.base import Array, Float, Session, Tensor
from fitment.core.bundle import IoSpec, TensorSpec

_IMAGE: Final = 4  # axes of what has a layout
_TO_NHWC: Final = (0, 2, 3, 1)
_TO_NCHW: Final = (0, 3, 1, 2)
_WAYS: Final = {("NCHW", "NHWC"): _TO_NHWC, ("NHWC", "NCHW"): _TO_NCHW}
"""(callers' layout, the file's) -> axes of the callers' in the order of the file."""


class Turned:
    """A session behind other names and another order of axes; see `agent.workers.runtimes.base`."""

    def __init__(self, session: Session, spec: IoSpec, layout: str) -> None:
        """Stand between callers who know ``spec`` and a file of ``layout``.

        Raises:
            JobError: ``rung_mismatch``; no turning makes one of the other.
        """
        self._session = session
        self._in = _WAYS.get((spec.layout, layout), ())
        self._out = _WAYS.get((layout, spec.layout), ())
        self.inputs = _known_as(session.inputs, spec.inputs, self._out)
        self.outputs = _known_as(session.outputs, spec.outputs, self._out)

    @property
    def version(self) -> str:
        return self._session.version

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        return [self._back(made) for made in self._session.prepare(self._turn(inputs))]

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        return [self._back(made) for made in self._session.raw(self._turn(feeds))]

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        return [self._back(made) for made in self._session.run(self._turn(inputs))]

    def integer_coverage(self) -> float | None:
        return self._session.integer_coverage()

    def close(self) -> None:
        self._session.close()

    def _turn(self, arrays: Sequence[Array]) -> list[Array]:
        return [_turned(values, self._in) for values in arrays]

    def _back(self, values: Array) -> Array:
        return _turned(values, self._out)


def as_chosen(loaded: Loaded) -> Loaded:
    """What was loaded from a rung's slot, as the chosen variant of its ladder is known.

    Anything else, and a rung whose bundle or chosen one describes no input, is as it is.

    Raises:
        JobError: ``rung_mismatch``.
    """
    slot, rung = parted(loaded.bundle.folder.parent.name)
    own = loaded.bundle.manifest.io
    spec = _chosen(loaded.bundle.folder.parent.with_name(slot)) if rung and own else None
    if spec is None or own is None:
        return loaded
    manifest = replace(loaded.bundle.manifest, io=replace(own, layout=spec.layout))
    session = Turned(loaded.session, spec, own.layout)
    return replace(loaded, bundle=replace(loaded.bundle, manifest=manifest), session=session)


def _chosen(slot: Path) -> IoSpec | None:
    """As callers know the slot; its copy tells when the chosen bundle is damaged or gone."""
    try:
        return installed.read(slot / ACTIVE).manifest.io
    except JobError:
        pass
    try:
        return installed.manifest_in(slot / CHOSEN).io
    except (OSError, ValueError):
        return None  # nothing is there to be known as


def _known_as(
    tensors: Sequence[Tensor], known: Sequence[TensorSpec], axes: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """The file's tensors under the names that callers know; in their order, which is kept."""
    made = tuple(
        replace(tensor, name=spec.name, shape=_shape(tensor.shape, axes))
        for tensor, spec in zip(tensors, known, strict=False)
    )
    alike = len(tensors) == len(known) and all(
        _same(tensor.shape, spec.shape) for tensor, spec in zip(made, known, strict=True)
    )
    if not alike:
        ours = [list(tensor.shape) for tensor in tensors]
        raise JobError(
            "rung_mismatch",
            f"the rung's tensors of shape {ours} cannot stand in for those of the chosen variant, "
            f"{[list(spec.shape) for spec in known]}",
            permanent=True,
        )
    return made


def _same(one: Sequence[int], other: Sequence[int]) -> bool:
    """Behind the first axis, which is that of the samples."""
    return len(one) == len(other) and all(
        -1 in (a, b) or a == b for a, b in zip(one[1:], other[1:], strict=True)
    )


def _shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes) if axes and len(shape) == _IMAGE else shape


def _turned(values: Array, axes: tuple[int, ...]) -> Array:
    if not axes or values.ndim != _IMAGE:
        return values
    return np.ascontiguousarray(values.transpose(axes))
