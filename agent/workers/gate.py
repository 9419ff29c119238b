"""May a correction be applied? Evidence from the inputs alone, none of it from the correction.

What cannot be undone must be refused: values that were clipped, an inversion, noise, blur. Each
leaves another trace: a pile at an end of the histogram, a negative slope, neighbours that differ
more or less than they did. And what differs from sample to sample is no property of the sensor.

The bounds were chosen on pictures of Fashion-MNIST's training file, seen through sensors other
than those of `tests/benchmarks/calibration`; no test picture was looked at for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.workers import inputs, shift
from agent.workers.runtimes.base import Array, Float
from agent.workers.shift import Shift
from agent.workers.texture import texture
from fitment.core.histogram import BINS, Histogram
from fitment.core.patch import InputCorrection, PatchManifest

PILE_MAX = 0.15
"""Share of values at an end of the range beyond the reference's share there. Three classes of ten
differ from all by up to 0.12 at black; a sensor that clips what is 1.5 times too bright, 0.2."""

ROUGHNESS_MAX = 1.25
"""Factor, either way, by which roughness may differ once corrected. Three classes of ten: 1.21 at
most; noise of 0.08 of the range: 1.26 to 1.44, and at half the gain 2.5."""

NOISE_MAX = 0.055
"""By how much flat places may be noisier, in standard deviations of the reference inputs: as noise
of 0.03 of the range makes them there. With that, undoing half the gain still helps; with 0.04 it
costs 1 to 6 points, with 0.06 up to 15, for what is undone makes the noise larger, too."""

UNSTEADY_MAX = 0.1
"""Standard error of the gain (relative) and of black (in ranges of the reference), over parts of
the samples in the order of time: conditions that changed meanwhile, or too few samples."""

SHRINK_SAMPLES = 2.0  # ``n0`` of ``n / (n + n0)``, by which the logarithm of a tone is shrunk
_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """How far gain and offset stray between parts of the samples (jackknife)."""

    gain: float  # standard error of its logarithm
    offset: float  # standard error


def reason(found: Shift, patch: PatchManifest, local: Histogram, *, max_gain: float) -> str:
    """Why the shift cannot be undone, as far as histograms tell; empty when it can."""
    if found.unexplained > shift.UNEXPLAINED_MAX:
        hint = "; the inputs look inverted" if found.inverted else ""
        return (
            "no gain, offset and tone of the sensor explain the shift: "
            f"{found.unexplained:.0%} is left, at most {shift.UNEXPLAINED_MAX:.0%} may be{hint}"
        )
    if not 1.0 / max_gain <= found.gain <= max_gain:
        return (
            f"the gain {found.gain:.3g} is outside what the release allows "
            f"({1.0 / max_gain:.3g} to {max_gain:g})"
        )
    if not 1.01 / shift.TONE_MAX <= found.exponent <= shift.TONE_MAX / 1.01:
        return f"the tone's exponent {found.exponent:.3g} is at the end of what is searched"
    return _piled(patch.input_reference, local, found.exponent)


def smoothness(
    correction: InputCorrection, samples: Float, patch: PatchManifest, layout: str
) -> str:
    """Why the samples are no pictures of the usual kind once corrected: noise or blur."""
    usual = patch.texture
    if usual is None:
        return "the bundle tells no texture of its reference inputs, so noise cannot be told"
    found = texture(inputs.corrected(correction, samples), layout)
    if found is None or usual.roughness <= 0.0:
        return "the samples have no neighbouring values, so noise cannot be told"
    ratio = found.roughness / usual.roughness
    if not 1.0 / ROUGHNESS_MAX <= ratio <= ROUGHNESS_MAX:
        what = "noise" if ratio > 1.0 else "blur"
        return f"neighbouring values differ {ratio:.2f} times as much as usual: {what}"
    more = np.sqrt(max(0.0, found.quiet**2 - usual.quiet**2))
    more /= max(shift.deviation(patch.input_reference), 1e-30)
    if more > NOISE_MAX:
        return (
            f"flat places are noisy: neighbouring values differ there by {more:.3f} deviations "
            f"more than usual, at most {NOISE_MAX} may be"
        )
    return ""


def steadiness(reference: Histogram, samples: Float, exponent: float) -> Steadiness:
    """Standard errors by leaving out one part of the samples after the other.

    Parts follow the order of the samples, which is that of time, so that conditions that changed
    show: ``se^2 = (k - 1) / k * sum (t_j - mean t)^2`` over ``k`` parts (Tukey's jackknife).
    """
    edges = (float(samples.min()), float(samples.max()))
    parts = np.array_split(samples, min(_PARTS, len(samples)))
    counts = [np.histogram(part, bins=BINS, range=edges)[0] for part in parts]
    whole = np.sum(counts, axis=0)
    fits = [shift.refit(reference, _histogram(whole - own, edges), exponent) for own in counts]
    gains, offsets = np.array(fits).T
    if (gains <= 0).any():
        return Steadiness(gain=float("inf"), offset=float("inf"))
    return Steadiness(gain=_error(np.log(gains)), offset=_error(offsets))


def unsteady(found: Shift, steady: Steadiness, reference: Histogram) -> str:
    """Why parts of the samples speak of different sensors; empty when they do not."""
    black = steady.offset / max(found.gain * (reference.high - reference.low), 1e-30)
    if max(steady.gain, black) <= UNSTEADY_MAX:
        return ""
    return (
        f"parts of the samples tell different shifts (the gain within {steady.gain:.0%}, black "
        f"within {black:.2f} of the range, at most {UNSTEADY_MAX} may be): the sensor or the "
        "light changed meanwhile, or the samples are too few"
    )


def correction(
    found: Shift, steady: Steadiness, reference: Histogram, *, tensor: str, samples: int
) -> InputCorrection:
    """What undoes the shift, each number drawn toward no change by what is not known of it.

    Gain (its logarithm) and offset by ``max(0, 1 - se^2 / t^2)`` (James and Stein's positive
    part), the tone's logarithm by ``n / (n + 2)``. Six digits, so that equal samples give equal
    bytes on every processor.
    """
    gain = float(np.exp(_shrunk(float(np.log(found.gain)), steady.gain)))
    offset = _shrunk(found.offset, steady.offset)
    tone = float(np.log(found.exponent)) * samples / (samples + SHRINK_SAMPLES)
    return InputCorrection(
        tensor=tensor,
        gain=_six(gain),
        offset=_six(offset),
        exponent=_six(float(np.exp(tone))) if found.exponent != 1.0 else 1.0,
        low=reference.low,
        high=reference.high,
    )


def _piled(reference: Histogram, local: Histogram, exponent: float) -> str:
    for name, usual, found in zip(
        ("lowest", "highest"), shift.ends(reference, exponent), shift.ends(local), strict=True
    ):
        if found - usual > PILE_MAX:
            return (
                f"{found:.0%} of the values are the {name} that there is, usually {usual:.0%}: "
                "the sensor clips, and what it cut off cannot be brought back"
            )
    return ""


def _shrunk(value: float, error: float) -> float:
    return value * max(0.0, 1.0 - (error / value) ** 2) if value else 0.0


def _error(values: Array) -> float:
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.sum((values - values.mean()) ** 2)))


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _histogram(counts: Array, edges: tuple[float, float]) -> Histogram:
    low, high = edges
    return Histogram(
        low=low, high=high if high > low else low + 1e-12, counts=tuple(int(n) for n in counts)
    )
