"""Whether a model answers as it should: golden answers, agreement, SQNR."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agent.jobs import RuntimeOptions
from agent.workers import inputs, installed
from agent.workers.installed import Bundle, Goldens, Loaded
from agent.workers.runtimes.base import Array, Float, Session

SQNR_CAP_DB = 150.0
"""Reported for equal outputs: more than the 24 bits of a float32 can tell (about 144 dB)."""

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
    them must be answered as the goldens are: that asks the whole way that a request takes.
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
    undone = evaluate(loaded.session, known)
    if undone.golden_ok:
        return pristine
    return _wrong(f"as its sensor shows them, its correction does not undo: {undone.reason}")


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
