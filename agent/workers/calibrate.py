"""Calibrate: fit a staged bundle to this device's own data, by an overlay that can be undone.

No sample leaves the device. Nothing is applied unless the inputs have shifted, the samples show
enough variety, a gain, an offset and a tone of the sensor explain the shift (`gate`), and the
model is surer of its answers without it (`worth`). Agreement with fp32 counts for nothing: it can
rise while accuracy falls.

*input* undoes the shift before the model. *moments* and *range* write it into the file, with
approximations; what undoing it before the model would answer is the judge of these.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent import durable
from agent.jobs import CalibrateJob, CalibrateResult
from agent.workers import child, gate, goldens, installed, moments, overlay, samples, shift, worth
from agent.workers.child import JobError
from agent.workers.installed import Bundle, Loaded
from agent.workers.runtimes import registry
from agent.workers.runtimes.base import Array, Float, Session, Tensor
from agent.workers.shift import Shift
from fitment.core import plain
from fitment.core.deployment import CalibrationMode, CalibrationReport
from fitment.core.histogram import Histogram
from fitment.core.patch import InputCorrection, Overlay, PatchManifest, StemPatch, Write

SIGNIFICANT = 2.0  # standard errors by which answers must come nearer to the judge's


class _Refused(Exception):
    """Calibration is not called for, or not safe; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """Everything that a decision needs."""

    job: CalibrateJob
    bundle: Bundle
    patch: PatchManifest
    tensor: Tensor  # the model's input
    local: Float
    histogram: Histogram  # of these


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What is to be applied, and why."""

    overlay: Overlay
    reason: str
    agreement_before: float | None = None  # with what undoing the shift before the model answers
    agreement_after: float | None = None


def handle(job: CalibrateJob) -> CalibrateResult:
    """Look, decide, and write ``job.overlay`` when the answer is yes.

    Raises:
        JobError: ``golden_failed`` (the pristine bundle answers wrong, so nothing is built on
            it), ``samples_invalid``, ``bundle_invalid``.
    """
    # One of an earlier try must not be taken for ours.
    durable.remove_written(Path(job.overlay))
    bundle = installed.read(job.folder)
    local, found = np.zeros(0, dtype=np.float32), None
    try:
        patch = _patch_manifest(job, bundle)
        tensor = _one_input(_open_pristine(job, bundle))
        local = samples.read(Path(job.samples), tensor, bundle.manifest.golden, seed=job.seed)
        material = _material(job, bundle, patch, tensor, local)
        toned = job.plan.mode is CalibrationMode.INPUT
        found = shift.compare(patch.input_reference, material.histogram, toned=toned)
        made = decide(material, found)
    except _Refused as refusal:
        return _result(job, reason=str(refusal), samples_read=len(local), found=found)
    overlay.save(Path(job.overlay), made.overlay)
    return _result(job, reason=made.reason, samples_read=len(local), found=found, made=made)


def decide(material: _Material, found: Shift) -> _Made:
    """What to apply.

    Raises:
        _Refused: nothing, and why.
    """
    correction = explained(material, found)
    _check_worth(material, found, correction)
    made = propose(material, found, correction)
    if made.overlay.writes:
        made = _judged(material, made, correction)
    _check_runs(material, made.overlay)
    return made


def _patch_manifest(job: CalibrateJob, bundle: Bundle) -> PatchManifest:
    if job.plan.mode is CalibrationMode.NONE:
        raise _Refused("the release does not ask for calibration")
    name = bundle.manifest.calibration
    if not name:
        raise _Refused("the bundle ships no patch manifest, so nothing in it may be changed")
    path = bundle.folder / name
    try:
        patch = plain.from_plain(PatchManifest, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise JobError("bundle_invalid", f"{path} cannot be read: {error}") from error
    if job.plan.mode is CalibrationMode.RANGE and not patch.ranges:
        raise _Refused("the bundle ships no range places")
    if job.plan.mode is not CalibrationMode.INPUT and patch.stem is None:
        raise _Refused("the bundle ships no places of its first layer")
    return patch


def _open_pristine(job: CalibrateJob, bundle: Bundle) -> Loaded:
    """Load the pristine file; it must answer its goldens before anything is built on it."""
    loaded = installed.load(bundle, job.setting.options)
    answer = goldens.evaluate(loaded.session, installed.goldens(bundle))
    if not answer.golden_ok:
        raise JobError(
            "golden_failed",
            f"the pristine bundle answers wrong on this device: {answer.reason}",
            permanent=True,
        )
    return loaded


def _one_input(loaded: Loaded) -> Tensor:
    tensors = loaded.session.inputs
    if len(tensors) > 1:
        raise _Refused(f"the model takes {len(tensors)} inputs; only one can be calibrated")
    if tensors[0].scale is None and np.dtype(tensors[0].dtype).kind != "f":
        raise _Refused(f"the model takes {tensors[0].dtype}, which is no measured quantity")
    return tensors[0]


def _material(
    job: CalibrateJob, bundle: Bundle, patch: PatchManifest, tensor: Tensor, local: Float
) -> _Material:
    if len(local) < max(job.plan.min_samples, 2):
        raise _Refused(f"{len(local)} samples, at least {job.plan.min_samples} are needed")
    return _Material(
        job=job, bundle=bundle, patch=patch, tensor=tensor, local=local,
        histogram=shift.histogram(local),
    )  # fmt: skip


def explained(material: _Material, found: Shift) -> InputCorrection:
    """The correction of the inputs, when all evidence is for it.

    A stuck or covered sensor has drifted too, so variety is asked before the shift's shape: its
    reason is the better one.

    Raises:
        _Refused: the evidence against it.
    """
    patch, plan, local = material.patch, material.job.plan, material.local
    reference = patch.input_reference
    if found.drift <= patch.drift_band:
        raise _Refused(
            f"the inputs look like the reference (drift {found.drift:.4f}, band "
            f"{patch.drift_band:.4f})"
        )
    spread = shift.deviation(reference)
    _refuse(samples.sameness(local, min_std=spread / plan.max_gain))
    _refuse(gate.reason(found, patch, material.histogram, max_gain=plan.max_gain))
    steady = gate.steadiness(reference, local, found.exponent)
    _refuse(gate.unsteady(found, steady, reference))
    correction = gate.correction(
        found, steady, reference, tensor=material.tensor.name, samples=len(local)
    )
    io = material.bundle.manifest.io
    _refuse(gate.smoothness(correction, local, patch, io.layout if io else "NCHW"))
    return correction


def _refuse(reason: str) -> None:
    if reason:
        raise _Refused(reason)


def propose(material: _Material, found: Shift, correction: InputCorrection) -> _Made:
    """The overlay that the mode makes of it, and what it does in words."""
    patch, mode = material.patch, material.job.plan.mode
    tone = f" of the power {found.exponent:.3g}" if found.exponent != 1.0 else ""
    reason = f"local = {found.gain:.3g} * reference{tone} {found.offset:+.3g} explains the shift"
    if mode is CalibrationMode.INPUT:
        made = overlay.make(patch.artifact_sha256, correction=correction)
        return _Made(overlay=made, reason=reason)
    assert patch.stem is not None  # _patch_manifest refuses without
    if mode is CalibrationMode.RANGE:
        writes, reason = _range_writes(material, patch.stem)
    else:
        writes = _moment_writes(material, patch.stem)
    return _Made(overlay=overlay.make(patch.artifact_sha256, writes), reason=reason)


def _judged(material: _Material, made: _Made, correction: InputCorrection) -> _Made:
    """Whether the patched file answers the samples more like the file with corrected inputs.

    That one is the best that is known of what should be answered, and owes nothing to the patch.
    Answers that came nearer must outnumber those that went away by two standard errors of the
    difference (a sign test: ``gained - lost >= 2 sqrt(gained + lost)``).
    """
    undone = overlay.make(material.patch.artifact_sha256, correction=correction)
    judge, before, after = (_top1(material, one) for one in (undone, None, made.overlay))
    right, now = before == judge, after == judge
    gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
    if gained - lost < SIGNIFICANT * np.sqrt(gained + lost) or not gained:
        raise _Refused(
            f"of {len(judge)} samples {gained} would be answered more like with corrected inputs "
            f"and {lost} less: no improvement is shown"
        )
    return _Made(
        overlay=made.overlay, reason=made.reason,
        agreement_before=float(right.mean()), agreement_after=float(now.mean()),
    )  # fmt: skip


def _check_worth(material: _Material, found: Shift, correction: InputCorrection) -> None:
    """A shift that the model bears stays as it is.

    A coarse explanation needs the stronger evidence: other contents than the reference's, such as
    lines on light paper alone, look like a shift that is explained so-so.
    """
    patch = material.patch
    undone = overlay.make(patch.artifact_sha256, correction=correction)
    before, after = (_outputs(material, change) for change in (None, undone))
    foreign = found.unexplained <= shift.STRAIGHT_GOOD and worth.foreign(
        patch.spread, patch.input_reference, material.local
    )
    _refuse(worth.reason(before, after, strange=foreign))


def _top1(material: _Material, change: Overlay | None) -> Array:
    outputs = _outputs(material, change)
    top: Array = outputs.reshape(len(outputs), -1).argmax(axis=1)
    return top


def _outputs(material: _Material, change: Overlay | None) -> Array:
    loaded = installed.opened(material.bundle, material.job.setting.options, change)
    outputs = installed.answers(loaded.session, material.local)
    loaded.session.close()
    if not np.isfinite(outputs).all():
        raise _Refused("with the correction the model gives outputs that are not finite")
    return outputs


def _probe(material: _Material, stem: StemPatch) -> Session:
    runtime = registry.get(material.bundle.manifest.runtime)
    return runtime.load(material.bundle.folder / stem.probe, material.job.setting.options)


def _moment_writes(material: _Material, stem: StemPatch) -> tuple[Write, ...]:
    plan, local = material.job.plan, material.local
    correction = moments.correct(
        moments.Moments(mean=np.asarray(stem.mean), variance=np.asarray(stem.variance)),
        moments.measure(_probe(material, stem), local),
        samples=len(local),
        max_gain=plan.max_gain,
        shared=stem.weight_scale.count == 1,
    )
    if correction.clamped * 2 > len(correction.gain):
        raise _Refused(
            f"{correction.clamped} of {len(correction.gain)} channels need a gain beyond "
            f"{plan.max_gain:g}"
        )
    return _folded(material, stem, correction)


def _range_writes(material: _Material, stem: StemPatch) -> tuple[tuple[Write, ...], str]:
    """Follow the range of the model's input; the file's other ranges need a probe of their own."""
    ranges = material.patch.ranges
    own = [place for place in ranges if place.scale.offset == stem.input_scale.offset]
    if not own:
        raise _Refused("none of the bundle's range places is the model's input")
    low, high = _range(material.local)
    ratio = (high - low) / max(own[0].high - own[0].low, 1e-30)
    if not 1.0 / material.job.plan.max_gain <= ratio <= material.job.plan.max_gain:
        raise _Refused(f"the local range is {ratio:.3g} times the reference's: beyond the bound")
    reason = f"the input's range is now {low:.3g} to {high:.3g} (1 of {len(ranges)} places)"
    return _folded(material, stem, moments.identity(stem.bias.count)), reason


def _folded(
    material: _Material, stem: StemPatch, correction: moments.Correction
) -> tuple[Write, ...]:
    low, high = _range(material.local)
    artifact = material.bundle.artifact.read_bytes()
    try:
        return moments.fold(artifact, stem, correction, low=low, high=high)
    except ValueError as error:
        raise _Refused(f"the correction cannot be stored: {error}") from error


def _range(local: Float) -> tuple[float, float]:
    return float(local.min()), float(local.max())


def _check_runs(material: _Material, made: Overlay) -> None:
    """What is to run must load, give finite outputs, and answer goldens as serving will ask it."""
    bundle, options = material.bundle, material.job.setting.options
    loaded = installed.opened(bundle, options, made)
    outputs = installed.answers(loaded.session, material.local[: material.job.plan.min_samples])
    if not np.isfinite(outputs).all():
        raise _Refused("with the correction the model gives outputs that are not finite")
    answer = goldens.evaluate_pristine(loaded, installed.goldens(bundle), options)
    _refuse("" if answer.golden_ok else f"with the correction: {answer.reason}")


def _result(
    job: CalibrateJob,
    *,
    reason: str,
    samples_read: int,
    found: Shift | None,
    made: _Made | None = None,
) -> CalibrateResult:
    return CalibrateResult(
        report=CalibrationReport(
            id=made.overlay.id if made is not None else "",
            mode=job.plan.mode,
            applied=made is not None,
            reason=reason,
            samples=samples_read,
            drift=found.drift if found else None,
            gain=found.gain if found else None,
            offset=found.offset if found else None,
            unexplained=found.unexplained if found else None,
            agreement_before=made.agreement_before if made else None,
            agreement_after=made.agreement_after if made else None,
            exponent=found.exponent if found else None,
        )
    )


if __name__ == "__main__":
    raise SystemExit(child.run("calibrate", handle))
