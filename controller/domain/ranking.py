"""In which order variants come: how fast they are, how small, and how accurate, within noise.

Measured and predicted latencies are never ranked against each other: when the best few were all
timed on the device, measurements rank, otherwise predictions do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from controller.domain.fleet import Variant
from fitment.core.measurement import Measurement

TIE = 0.03
"""Latencies closer than this share are equal; the smaller transfer wins."""
NOISE = 0.1
"""Measured medians whose intervals overlap are equal, too, up to this share: no wider an interval
tells that a variant is as fast as another."""
BYTES_ALIKE = 0.02
"""Transfers closer than this share are equal; what loses less accuracy wins."""
TOP = 3
"""The best few by prediction: a device confirms them, and all must be measured to be ranked so."""
ALIKE = 0.002
"""Drops of accuracy that differ by less are alike."""

Taken = Mapping[str, Measurement]
"""Measurement by variant digest, from devices of the cohort."""


def predicted_ms(variant: Variant) -> float | None:
    """Predicted median latency, or None where the target's kernels were not timed."""
    return variant.predicted.value if variant.predicted else None


def measured_ms(measurement: Measurement | None) -> float | None:
    """Measured median latency, or None; an emulator's is none."""
    if measurement is None or measurement.latency is None or not measurement.tells_costs:
        return None
    return measurement.latency.p50_ms


def ranked(variants: Sequence[Variant], taken: Taken, *, accurate: bool = False) -> list[Variant]:
    """Best first: by latency, bytes and accuracy, or by accuracy before them."""
    fastest = _fastest(variants, taken)
    return _most_accurate(fastest) if accurate else fastest


def all_measured(variants: Sequence[Variant], taken: Taken) -> bool:
    """Whether the best few by prediction were timed on a device."""
    best_few = by_prediction(variants)[:TOP]
    return all(measured_ms(taken.get(v.bundle.variant)) is not None for v in best_few)


def by_prediction(variants: Sequence[Variant]) -> list[Variant]:
    """Fastest first by prediction; ties and the unpredicted by bytes on the wire."""
    return _by(variants, lambda v: _spread(predicted_ms(v)))


def _fastest(variants: Sequence[Variant], taken: Taken) -> list[Variant]:
    if not all_measured(variants, taken):
        return by_prediction(variants)

    def seen(variant: Variant) -> Measurement | None:
        return taken.get(variant.bundle.variant)

    timed = [v for v in variants if measured_ms(seen(v)) is not None]
    rest = [v for v in variants if measured_ms(seen(v)) is None]
    return _by(timed, lambda v: _measured_spread(seen(v))) + by_prediction(rest)


def _most_accurate(left: list[Variant]) -> list[Variant]:
    """Of those that lose about as little as the best left, the first by speed comes first."""
    ranked: list[Variant] = []
    while left:
        limit = min(_drop(v) for v in left) + ALIKE
        ranked.append(next(v for v in left if _drop(v) <= limit))
        left = [v for v in left if v is not ranked[-1]]
    return ranked


def _by(variants: Sequence[Variant], latency: Callable[[Variant], _Spread]) -> list[Variant]:
    """By latency; of those that tie with the fastest left, `_smallest` comes first.

    Where nothing was timed all tie, as on emulated boards.
    """
    left = sorted(variants, key=lambda v: latency(v).middle)
    ranked: list[Variant] = []
    while left:
        fastest = latency(left[0])
        ranked.append(_smallest([v for v in left if fastest.ties(latency(v))], latency))
        left.remove(ranked[-1])
    return ranked


def _smallest(tied: Sequence[Variant], latency: Callable[[Variant], _Spread]) -> Variant:
    """The first of those that are about as fast.

    Ones that a device can calibrate come first, and of these the ones whose file can hold the
    correction: they are so only where the model asks for calibration. Then bytes on the wire, and
    among those about as small the accuracy, as far as it differs by more than chance.
    """

    def calibrated(variant: Variant) -> tuple[bool, bool]:
        return (not variant.calibratable, not variant.patchable)

    best = min(calibrated(v) for v in tied)
    alike = [v for v in tied if calibrated(v) == best]
    limit = min(v.wire_bytes for v in alike) * (1 + BYTES_ALIKE)
    small = [v for v in alike if v.wire_bytes <= limit]
    least = min(_drop(v) for v in small)
    exact = [v for v in small if _drop(v) <= least + ALIKE]
    return min(exact, key=lambda v: (v.wire_bytes, latency(v).middle, _drop(v)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """A latency in ms and where its median may lie; infinite where nothing is known."""

    middle: float
    low: float
    high: float

    def ties(self, other: _Spread) -> bool:
        """Whether a slower one is as fast as this one, within noise."""
        if other.middle <= self.middle * (1 + TIE):
            return True
        return other.low <= self.high and other.middle <= self.middle * (1 + NOISE)


def _spread(value: float | None) -> _Spread:
    known = math.inf if value is None else value
    return _Spread(middle=known, low=known, high=known)


def _measured_spread(measurement: Measurement | None) -> _Spread:
    known = measured_ms(measurement)
    if known is None or measurement is None or measurement.latency is None:
        return _spread(known)
    taken = measurement.latency
    return _Spread(middle=known, low=taken.p50_low_ms, high=taken.p50_high_ms)


def _drop(variant: Variant) -> float:
    """Of accuracy on the guard set; without labels, answers that differ count as lost."""
    if variant.guard_accuracy_drop is None:
        return 1.0 - variant.guard_agreement
    return variant.guard_accuracy_drop
