"""``report.json``: what the demo found, with the evidence that the fleet's records hold."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.demo.fleet import CHANGED, FLEET, WORKLOAD, DeviceSpec
from controller.demo.stage import Stage
from controller.domain import fleet, pulled
from fitment.core import plain
from fitment.core.measurement import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How one step went."""

    name: str
    title: str
    seconds: float
    result: str  # a line; of a step that failed, why


def make(stage: Stage, steps: Sequence[StepTime], failed: str = "") -> dict[str, Any]:
    """The whole report; of a demo that failed, as far as it came.

    ``fp32_bytes`` is the size of the fp32 ONNX file, by which every ratio of bytes divides.
    """
    job = stage.jobs.get(CHANGED.name)
    return {
        "ok": not failed,
        "failed": failed or None,
        "workload": WORKLOAD,
        "link": stage.link,
        "machine": platform.machine(),
        "fp32_accuracy": job.fp32_accuracy if job else None,
        "fp32_bytes": job.fp32_bytes if job else None,
        "seconds": round(sum(step.seconds for step in steps), 2),
        "change_to_commit_s": stage.change_s,
        "steps": [plain.to_plain(step) for step in steps],
        "devices": [_device(stage, spec) for spec in FLEET],
    }


def _device(stage: Stage, spec: DeviceSpec) -> dict[str, Any]:
    known = stage.device(spec) if spec.name in stage.jobs else None
    mine = stage.trigger if stage.trigger and stage.trigger.device == spec.name else None
    reported = known.reported if known else None
    return {
        "name": spec.name,
        "profile": known.profile if known else None,
        "profile_reason": known.profile_reason if known else None,
        "emulated": reported.fingerprint.emulated if reported else None,
        "trigger": mine.reason if mine else None,
        "trigger_result": mine.result if mine else None,
        "before": _state(stage.jobs, stage.deployments, stage.running, spec.name),
        "after": _state(stage.later_jobs, stage.after, stage.running_after, spec.name),
        "candidates": _candidates(stage.jobs.get(spec.name)),
        "candidates_after": _candidates(stage.later_jobs.get(spec.name)),
        "calibration": _calibration(stage, spec.name),
        "supervisor_memory_bytes": stage.memory.get(spec.name) or None,
    }


def _state(
    jobs: Mapping[str, fleet.FitJob],
    deployments: Mapping[str, fleet.Deployment],
    running: Mapping[str, pulled.RunningModel],
    name: str,
) -> dict[str, Any] | None:
    """What a device ran after one deployment; None when there was none."""
    deployment, job = deployments.get(name), jobs.get(name)
    if deployment is None or job is None:
        return None
    variant = next(v for v in job.variants if v.bundle.variant == deployment.variant)
    file = running.get(name)
    return {
        "variant": variant.name,
        "variant_digest": variant.bundle.variant,
        "sha256": file.sha256 if file else None,  # of the file that runs, with its calibration
        "runtime": variant.runtime,
        "scheme": variant.scheme,
        "reason": job.choice.reason if job.choice else None,
        "scheme_reason": job.scheme_reasons.get(variant.runtime),
        **_evidence(variant),
        **_measured(deployment.measurement),
    }


def _evidence(variant: fleet.Variant) -> dict[str, Any]:
    """What is known of a variant before any device ran it."""
    return {
        "accuracy": variant.accuracy,
        "accuracy_interval": variant.accuracy_interval,
        "agreement": variant.agreement,
        "flips": variant.flips,
        "operating": plain.to_plain(variant.operating),
        "slices": plain.to_plain(variant.slices),
        "sqnr_db": variant.sqnr_db,
        "integer_coverage": variant.integer_coverage,
        "file_bytes": variant.file_bytes,
        "wire_bytes": variant.wire_bytes,
    }


def _candidates(job: fleet.FitJob | None) -> list[dict[str, Any]] | None:
    """All variants of one fit, with what spoke for and against each."""
    if job is None or job.choice is None:
        return None
    return [_candidate(job, job.choice, variant) for variant in job.variants]


def _candidate(job: fleet.FitJob, choice: fleet.Choice, variant: fleet.Variant) -> dict[str, Any]:
    digest = variant.bundle.variant
    taken = job.measured.get(digest)
    return {
        "variant": variant.name,
        "runtime": variant.runtime,
        "scheme": variant.scheme,
        "recipe": list(variant.recipe),
        "chosen": digest == choice.chosen,
        "rejected": choice.rejected.get(digest),
        **_evidence(variant),
        "predicted": plain.to_plain(variant.predicted) if variant.predicted else None,
        "measured": _measured(taken)["measured"] if taken else None,
    }


def _measured(taken: Measurement | None) -> dict[str, Any]:
    """Latency with its verdict, and energy or why there is none."""
    if taken is None:
        reason = "the device reported no measurement"
        return {"measured": None, "energy": {"value_mj": None, "status": "unavailable",
                                             "reason": reason}}  # fmt: skip
    latency, baseline = taken.latency, taken.baseline_latency
    return {
        "measured": {
            "p50_ms": latency.p50_ms if latency else None,
            "p95_ms": latency.p95_ms if latency else None,
            "verdict": taken.verdict.value,
            "reasons": list(taken.reasons),
            "before_p50_ms": baseline.p50_ms if baseline else None,  # interleaved, same stack
            "emulated": taken.emulated,
            "peak_memory_bytes": taken.peak_memory_bytes,
        },
        "energy": {
            "value_mj": taken.energy.value_mj,
            "status": taken.energy.status.value,
            "reason": taken.energy.reason or None,
        },
    }


def _calibration(stage: Stage, name: str) -> dict[str, Any] | None:
    deployment = stage.deployments.get(name)
    if deployment is None or deployment.calibration is None:
        return None
    report = deployment.calibration
    shifted = stage.shifted.get(name)
    return {
        "applied": report.applied,
        "reason": report.reason,
        "samples": report.samples,
        "gain": report.gain,
        "accuracy_on_its_sensor": plain.to_plain(shifted) if shifted else None,
    }
