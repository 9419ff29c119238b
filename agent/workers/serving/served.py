"""A model as it is served: what a request may look like, and how its runs are cut.

Variants of one model must be exchangeable below a running application. So a quantized input or
output is offered as the real values that the float variant has, and taken in its own type too.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from agent.domain.rungs import parted
from agent.workers import installed
from agent.workers.child import JobError, is_out_of_memory
from agent.workers.installed import Goldens, Loaded
from agent.workers.runtimes import base
from agent.workers.runtimes.base import Array, Session, Tensor
from agent.workers.serving.inputs import InputWatch
from agent.workers.serving.meter import Meter
from agent.workers.serving.predictions import PredictionWatch

_CHECKED_TOGETHER = 8  # golden inputs in the run that shows whether samples are independent


class Cut(enum.Enum):
    """How samples come to runs."""

    TOGETHER = "together"  # any number in a run, of several requests: dynamic batching
    ALONE = "alone"  # a request is a run: its samples may depend on one another
    PORTIONS = "portions"  # the file's first axis is fixed: one run per that many samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """A loaded model, what its first axis is, and what it did since."""

    loaded: Loaded
    own: Loaded  # as its file is, where callers know it by other names: goldens are asked of it
    cut: Cut
    portion: int = 1  # samples of a run, where the file says so
    why: str = ""  # why not together
    session_lock: threading.Lock = field(default_factory=threading.Lock)
    meter: Meter = field(default_factory=Meter)
    watch: InputWatch = field(default_factory=lambda: InputWatch((), every=0))
    predictions: PredictionWatch = field(default_factory=lambda: PredictionWatch(every=0))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.loaded.session.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.loaded.session.outputs

    @property
    def rung(self) -> int:
        """Of the slot's ladder; 0 is the chosen variant."""
        return parted(self.loaded.bundle.folder.parent.name)[1]

    def samples_in(self, shapes: Sequence[Sequence[int]]) -> int:
        """Samples of a request, from the shapes of its inputs.

        Raises:
            JobError: ``input_mismatch``; a shape does not go with the model.
        """
        for tensor, shape in zip(self.inputs, shapes, strict=True):
            check_shape(self, tensor, shape)
        counts = {shape[0] if shape else 1 for shape in shapes}
        if len(counts) > 1:
            raise _mismatch(f"the inputs differ in their first axis: {sorted(counts)} samples")
        (rows,) = counts
        if self.cut is Cut.PORTIONS and rows % self.portion:
            raise _mismatch(f"the model takes {self.portion} samples a run, {rows} do not fill it")
        return rows

    def run(self, requests: Sequence[Sequence[Array]], rows: int, *, cap: int) -> list[Array]:
        """Run native feeds of ``rows`` samples in all; at most ``cap`` in one run where that goes.

        Raises:
            JobError: ``run_failed``, or ``out_of_memory``.
        """
        size = {Cut.PORTIONS: self.portion, Cut.TOGETHER: cap}.get(self.cut, rows)
        try:
            feeds = list(requests[0])
            if len(requests) > 1:
                feeds = [np.concatenate(part) for part in zip(*requests, strict=True)]
            with self.session_lock:
                if rows <= size:
                    return self.loaded.session.raw(feeds)
                return self._in_turn(feeds, rows, size)
        except Exception as error:  # a runtime's own; the thread of all requests must live on
            short = isinstance(error, MemoryError) or is_out_of_memory(error)
            code = "out_of_memory" if short else "run_failed"
            raise JobError(code, f"{self.loaded.runtime} cannot run this: {error}") from error

    def _in_turn(self, feeds: Sequence[Array], rows: int, size: int) -> list[Array]:
        parts = [
            self.loaded.session.raw(
                [np.ascontiguousarray(feed[start : start + size]) for feed in feeds]
            )
            for start in range(0, rows, size)
        ]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def close(self) -> None:
        """Let the model go, once its run has ended."""
        with self.session_lock:
            self.loaded.session.close()


def offered_shape(served: Served, tensor: Tensor) -> tuple[int, ...]:
    """The shape as it is told: any number of samples where they are cut into portions."""
    return (-1, *tensor.shape[1:]) if served.cut is Cut.PORTIONS else tensor.shape


def check_shape(served: Served, tensor: Tensor, shape: Sequence[int]) -> None:
    """Hold the shape of one input against the model.

    Raises:
        JobError: ``input_mismatch``.
    """
    wanted = offered_shape(served, tensor)
    fits = len(shape) == len(wanted) and all(
        got >= 1 and want in (-1, got) for want, got in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise _mismatch(
            f"input '{tensor.name}' has shape {list(wanted)} (-1: any size from 1), "
            f"got {list(shape)}"
        )


def native(tensor: Tensor, values: Array) -> Array:
    """What the runtime takes: values in its own type as they are, real ones converted.

    Raises:
        JobError: ``input_mismatch``; a value cannot be converted.
    """
    if values.dtype == np.dtype(tensor.dtype):
        return np.ascontiguousarray(values)
    if np.dtype(tensor.dtype).kind in "iub" and not np.isfinite(values).all():
        raise _mismatch(f"input '{tensor.name}' holds values that are not finite")
    free = base.Tensor(
        name=tensor.name, dtype=tensor.dtype, shape=values.shape,
        scale=tensor.scale, zero_point=tensor.zero_point,
    )  # fmt: skip
    return base.to_native(free, values)


def offered(tensor: Tensor, values: Array) -> Array:
    """An output as it is offered: real values of a float or quantized one, else its own type."""
    if tensor.scale is not None or np.dtype(tensor.dtype).kind == "f":
        return base.to_real(tensor, values)
    return values


def examine(
    loaded: Loaded, known: Goldens, *, watch_every: int = 0, shown: Loaded | None = None
) -> Served:
    """Find out how the samples of ``loaded`` may be cut into runs.

    A first axis that takes any size need not be one of independent samples, and a model that
    quantizes over all of its input answers each by the company it has. So golden inputs are
    answered one by one and together, and must agree within the goldens' tolerance. ``shown`` is how
    callers know it, if not as it is.
    """
    shown = shown or loaded
    session = loaded.session
    cut, portion, why = _cut(session, known)
    reference = installed.input_reference(loaded.bundle)
    watch = InputWatch(shown.session.inputs, every=watch_every, reference=reference)
    return Served(
        loaded=shown, own=loaded, cut=cut, portion=portion, why=why, watch=watch,
        predictions=PredictionWatch(every=watch_every),
    )  # fmt: skip


def _cut(session: Session, known: Goldens) -> tuple[Cut, int, str]:
    firsts = {item.shape[0] if item.shape else 0 for item in (*session.inputs, *session.outputs)}
    if len(firsts) != 1 or 0 in firsts:
        return Cut.ALONE, 1, "inputs and outputs share no first axis"
    (first,) = firsts
    if first > 0:
        return Cut.PORTIONS, first, f"the file takes {first} a run"
    why = _depends(session, known)
    return (Cut.ALONE if why else Cut.TOGETHER), 1, why


def _depends(session: Session, known: Goldens) -> str:
    inputs = known.inputs[:_CHECKED_TOGETHER]
    alone = installed.answers(session, inputs)
    together = session.run(installed.together(session, inputs))[0]
    if together.shape != alone.shape:
        return f"{len(inputs)} samples together give outputs of shape {together.shape}"
    worst = float(np.max(np.abs(together.astype(np.float64) - alone), initial=0.0))
    if not worst <= known.tolerance:
        return f"answers change by {worst:.4g} with the company, {known.tolerance:.4g} is allowed"
    return ""


def _mismatch(message: str) -> JobError:
    return JobError("input_mismatch", message, permanent=True)
