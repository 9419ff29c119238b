"""Whether a model answers as it should: golden answers, agreement, SQNR."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agent.jobs import RuntimeOptions
from agent.workers import inputs, installed
from agent.workers.inputs import Corrected
from agent.workers.installed import Bundle, Goldens, Loaded
from agent.workers.runtimes.base import Array, Float, Session
from fitment.core.patch import InputCorrection

SQNR_CAP_DB = 150.0
"""Reported for equal outputs: more than the 24 bits of a float32 can tell (about 144 dB)."""

UNDONE_MAX = 0.02
"""Of the reference's range: near black a steep tone leaves a float32 no more than that."""

WORST_ERROR_CAP = float(np.finfo(np.float32).max)
"""Reported when an output is not finite, since JSON has no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of the golden inputs."""

    golden_ok: bool
    worst_error: float
    agreement: float | None
    sqnr_db: float | None
    reason: str = ""


def evaluate(session: Session, goldens: Goldens) -> Answer:
    """Run the golden inputs and compare.

    Right means: finite, every output within ``tolerance`` of the variant's own recorded one
    (absolute), and the same top-1. Where recorded outputs tie for the first place, as quantized
    ones do, each of these is the same top-1.
    """
    outputs = installed.answers(session, goldens.inputs)
    if outputs.shape != goldens.outputs.shape:
        reason = f"outputs have shape {outputs.shape}, recorded ones {goldens.outputs.shape}"
        return _wrong(reason)
    broken = int(np.count_nonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)))
    if broken:
        return _wrong(f"{broken} of {len(outputs)} golden inputs give outputs that are not finite")
    worst = float(np.max(np.abs(outputs.astype(np.float64) - goldens.outputs), initial=0.0))
    reason = _difference(outputs, goldens, worst)
    return Answer(
        golden_ok=not reason,
        worst_error=worst,
        agreement=agreement(goldens.reference, outputs),
        sqnr_db=sqnr_db(goldens.reference, outputs),
        reason=reason,
    )


def evaluate_pristine(loaded: Loaded, goldens: Goldens, options: RuntimeOptions) -> Answer:
    """Answer the goldens with the pristine file of what is loaded.

    A calibrated model is *meant* to answer the controller's inputs differently. So its pristine
    file shows that this stack computes rightly, and the patched one must still give finite values.
    Where only the inputs are corrected, the golden ones as the shifted sensor would have shown
    them must come back, and be answered as the file answers them: the whole way of a request.
    """
    if not loaded.overlay:
        return evaluate(loaded.session, goldens)
    known = goldens
    if loaded.correction is not None:
        known = replace(goldens, inputs=inputs.seen(loaded.correction, goldens.inputs))
    patched = installed.answers(loaded.session, known.inputs)
    if not np.isfinite(patched).all():
        return _wrong("with its overlay the model gives outputs that are not finite")
    pristine = evaluate_bundle(loaded.bundle, goldens, options)
    if loaded.correction is None or loaded.patched or not pristine.golden_ok:
        return pristine
    undone = _undone(loaded.session, loaded.correction, goldens.inputs)
    return _wrong(undone) if undone else pristine


def _undone(session: Session, correction: InputCorrection, wanted: Array) -> str:
    """Why a correction does not undo what its sensor does to the golden inputs; empty if it does.

    Answers are held against those of the file itself to the very same numbers, and not to the
    golden ones: where values lie between two steps of a quantized input, the last bit of a float
    decides, and a touchy file answers either way.
    """
    shown = inputs.seen(correction, wanted)
    again = inputs.corrected(correction, shown)
    if correction.exponent != 1.0:
        wanted = np.maximum(wanted, correction.low)  # darker than black is black
    off = float(np.max(np.abs(again - wanted), initial=0.0))
    if off > UNDONE_MAX * max(correction.high - correction.low, 1e-30):
        return f"its correction leaves golden inputs {off:.3g} off, as its sensor shows them"
    if not isinstance(session, Corrected):
        return "its inputs are not corrected"
    file = installed.answers(session.pristine, again)
    if not np.array_equal(installed.answers(session, shown), file):
        return "its correction is not what is done to its inputs"
    return ""


def evaluate_bundle(bundle: Bundle, goldens: Goldens, options: RuntimeOptions) -> Answer:
    """Load the pristine file, answer the goldens, let it go."""
    pristine = installed.load(bundle, options)
    try:
        return evaluate(pristine.session, goldens)
    finally:
        pristine.session.close()


def agreement(reference: Array, outputs: Array) -> float:
    """Share of samples whose top-1 (largest of all outputs of a sample) is the reference's."""
    return float(np.mean(_top1(reference) == _top1(outputs)))


def sqnr_db(reference: Array, outputs: Array) -> float | None:
    """Signal to quantization noise: ``10 log10(sum ref^2 / sum (ref - out)^2)``.

    None when the reference is all zero; capped at `SQNR_CAP_DB`.
    """
    wanted = reference.astype(np.float64)
    signal = float(np.sum(wanted**2))
    noise = float(np.sum((wanted - outputs) ** 2))
    if signal == 0.0:
        return None
    if noise == 0.0:
        return SQNR_CAP_DB
    return min(SQNR_CAP_DB, 10.0 * float(np.log10(signal / noise)))


def _difference(outputs: Float, goldens: Goldens, worst: float) -> str:
    if worst > goldens.tolerance:
        return f"an output is {worst:.4g} off, {goldens.tolerance:.4g} is allowed"
    recorded = goldens.outputs.reshape(len(outputs), -1)
    chosen = np.take_along_axis(recorded, _top1(outputs)[:, None], axis=1)[:, 0]
    flips = int(np.count_nonzero(chosen < recorded.max(axis=1)))
    return f"{flips} of {len(outputs)} golden inputs change their top-1" if flips else ""


def _top1(values: Array) -> Array:
    first: Array = values.reshape(len(values), -1).argmax(axis=1)
    return first


def _wrong(reason: str) -> Answer:
    return Answer(
        golden_ok=False, worst_error=WORST_ERROR_CAP, agreement=None, sqnr_db=None, reason=reason
    )
