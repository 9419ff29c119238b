"""Undoing a shift of the sensor in what is fed: the overlay that leaves the file as it is.

A correction of the inputs is exact where one folded into the first layer is not: that layer's
padding is put around the picture afterwards, and stays what it was in training. It needs nothing
of the file, so it goes with every runtime and format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.workers import shift
from agent.workers.child import JobError
from agent.workers.runtimes.base import Array, Float, Session
from fitment.core.histogram import Histogram
from fitment.core.patch import InputCorrection


class Corrected:
    """A session that corrects its one input; see `agent.workers.runtimes.base`.

    It is fed real values only, also where the file takes integers: a local value need not fit
    the file's own scale before it is corrected. The correction is done in `raw`, so that it is
    within what is timed; its buffer lasts until the next run, as the session is one thread's.
    """

    def __init__(self, session: Session, correction: InputCorrection) -> None:
        """Stand before ``session``.

        Raises:
            JobError: ``overlay_invalid``; its input is not the one that the overlay is for.
        """
        names = [tensor.name for tensor in session.inputs]
        if names != [correction.tensor]:
            raise JobError(
                "overlay_invalid",
                f"the overlay corrects the one input '{correction.tensor}', the model takes "
                f"{', '.join(names)}: calibrate again",
                permanent=True,
            )
        self._session = session
        self._correction = correction
        self._buffer: Float = np.empty(0, dtype=np.float32)
        self.inputs = tuple(
            replace(tensor, dtype="float32", scale=None, zero_point=0) for tensor in session.inputs
        )
        self.outputs = session.outputs

    @property
    def pristine(self) -> Session:
        """The session behind the correction."""
        return self._session

    @property
    def version(self) -> str:
        return self._session.version

    @property
    def coverage_by(self) -> str:
        return self._session.coverage_by

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        return [np.ascontiguousarray(values, dtype=np.float32) for values in inputs]

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        return self._session.raw(self._session.prepare([self._corrected(*feeds)]))

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        return self._session.run([self._corrected(*self.prepare(inputs))])

    def integer_coverage(self) -> float | None:
        return self._session.integer_coverage()

    def close(self) -> None:
        self._session.close()

    def _corrected(self, values: Array) -> Float:
        if self._buffer.shape != values.shape:
            self._buffer = np.empty(values.shape, dtype=np.float32)
        return corrected(self._correction, values, out=self._buffer)


def corrected(correction: InputCorrection, values: Array, *, out: Float | None = None) -> Float:
    """``values`` as the usual sensor would have given them: the formula of the type, in float32."""
    made: Float = np.multiply(values, np.float32(correction.slope), out=out, dtype=np.float32)
    made += np.float32(correction.intercept)
    if correction.exponent != 1.0:
        np.maximum(made, np.float32(0.0), out=made)
        np.power(made, np.float32(1.0 / correction.exponent), out=made)
        made *= np.float32(correction.high - correction.low)
        made += np.float32(correction.low)
    return made


def seen(correction: InputCorrection, values: Array) -> Float:
    """``values`` as the shifted sensor gives them: the inverse, for golden inputs."""
    bent = values.astype(np.float64)
    if correction.exponent != 1.0:
        span = correction.high - correction.low
        places = np.maximum((bent - correction.low) / span, 0.0)
        bent = correction.low + span * places**correction.exponent
    return np.asarray(correction.offset + correction.gain * bent, dtype=np.float32)


def seen_histogram(correction: InputCorrection, reference: Histogram) -> Histogram:
    """The reference as the shifted sensor would show it, in as many bins."""
    levels = (np.arange(16 * len(reference.counts)) + 0.5) / (16 * len(reference.counts))
    values = seen(correction, shift.quantiles(reference, levels))
    low, high = (float(seen(correction, np.array(end))) for end in (reference.low, reference.high))
    counts, _ = np.histogram(values, bins=len(reference.counts), range=(low, high))
    return Histogram(low=low, high=high, counts=tuple(int(count) for count in counts))
