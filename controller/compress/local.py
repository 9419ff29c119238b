"""A fit without a fleet: one workload, one profile, this machine. For ``fitment fit --out``.

Everything that runs the user's file or loads a runtime does so in worker processes. Candidates
are timed here, interleaved; where this machine is not of the profile's kind, that time is an
estimate of nothing but the order, is marked as such, and no latency limit is judged by it.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import util
from pathlib import Path
from typing import Any

from controller.catalog import check, inspect, process
from controller.catalog.snapshot import snapshot
from controller.compress import page, timing, worker
from controller.compress.fit import FitRequest, FitResult
from controller.compress.search.ladder import RuntimeTarget
from controller.domain.choice import choose
from controller.domain.fleet import Budget, Choice, Variant
from controller.errors import FitError, UserError
from fitment.core import digest, plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest
from fitment.core.kernels import KernelTable
from fitment.core.measurement import CostKind, Energy, Latency, Measurement, ReadingStatus
from profiles import Profile, load_profile

MODULES: Mapping[str, str] = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}
REPORT, PAGE, PICTURE = "variants.json", "report.html", "pareto.png"
EMULATED = "timed on this machine, which is not of the profile's kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest:
    """What to fit, for what, and where to."""

    workload: Path  # file or folder
    profile: str
    out: Path
    effort: str = "quick"
    rungs: tuple[str, ...] = ()  # asked for beside the effort's, see `fleet.EXTRA_RUNGS`
    budget: Mapping[str, float] | None = None  # overrides by name
    seed: int = 0
    threads: int = 2
    rounds: int = 16  # of timing, of two blocks for each candidate
    cache: Path | None = None  # None: below ``out``


def fit_locally(request: LocalRequest, progress: process.Progress) -> dict[str, Any]:
    """Fit, time, choose; write artifacts, ``variants.json``, ``report.html`` and ``pareto.png``.

    Gives the content of ``variants.json``.

    Raises:
        WorkloadError: the workload cannot be used.
        UserError: the profile or a budget's name is not known.
        FitError: nothing could be made.
    """
    started = time.monotonic()
    profile = load_profile(request.profile)
    work = request.out / ".work"
    taken = snapshot(request.workload, work / "snapshots")
    facts = inspect.inspect(
        taken.folder, work / "inspect", report=_part(progress, 0.0, 0.1), threads=request.threads
    )
    budget = merged_budget(facts, profile, request.budget or {})
    tables = _probed(profile, work / "probe", _part(progress, 0.1, 0.15))
    result = worker.run(
        work / "fit",
        FitRequest(
            workload_folder=str(taken.folder),
            runtimes=targets_here(profile),
            out=str(work / "archives"),
            cache=str(request.cache or work / "cache"),
            profile=profile.name,
            budget=budget,
            effort=request.effort,
            rungs=request.rungs,
            seed=request.seed,
            threads=request.threads,
            channels_multiple_of=profile.channels_multiple_of,
            kernel_tables=tables,
        ),
        report=_part(progress, 0.15, 0.85),
    )
    written = _write_artifacts(result, request.out)
    timed = timing.run(
        work / "timing",
        _timing_job(request, result, written),
        report=_part(progress, 0.85, 0.98),
    )
    found = _Found(
        profile=profile,
        budget=budget,
        result=result,
        files=written,
        timed=timed,
        emulated=not of_this_machine(profile),
        notes=facts.notes,
    )
    report = _report(found, seconds=time.monotonic() - started)
    (request.out / PAGE).write_text(page.page(report), encoding="utf-8")
    (request.out / PICTURE).write_bytes(page.png(report))
    process.write_json(request.out / REPORT, report)
    progress("done", 1.0)
    return report


def _timing_job(
    request: LocalRequest,
    result: FitResult,
    written: Mapping[str, _File],
) -> timing.TimingJob:
    return timing.TimingJob(
        artifacts={
            v.bundle.variant: timing.Timeable(
                path=str(request.out / written[v.bundle.variant].path), runtime=v.runtime
            )
            for v in result.variants
        },
        inputs=result.feeds,
        rounds=request.rounds,
    )


def merged_budget(facts: check.Facts, profile: Profile, overrides: Mapping[str, float]) -> Budget:
    """The profile's limits, the model's over them, its own for this profile, the overrides.

    Raises:
        UserError: an override has no such name.
    """
    known = {f.name for f in fields(Budget)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UserError(f"a budget has no '{unknown[0]}'; the names are {', '.join(sorted(known))}")
    own = facts.profile_budgets.get(profile.name, Budget())
    merged: dict[str, Any] = {}
    for layer in (profile.budget, facts.budget, own):
        merged.update({k: v for k, v in plain.to_plain(layer).items() if v is not None})
    return plain.from_plain(Budget, {**merged, **overrides})


def targets_here(profile: Profile) -> tuple[RuntimeTarget, ...]:
    """The profile's runtimes that are installed here, since evidence comes from running them.

    Raises:
        FitError: none is.
    """
    found = tuple(
        RuntimeTarget(runtime=r.name, format=r.format, schemes=r.schemes, rules=r.rules)
        for r in profile.runtimes
        if r.name in MODULES and util.find_spec(MODULES[r.name]) is not None
    )
    if not found:
        wanted = ", ".join(MODULES.get(r.name, r.name) for r in profile.runtimes)
        raise FitError(f"none of the runtimes of '{profile.name}' is installed here: {wanted}")
    return found


def of_this_machine(profile: Profile) -> bool:
    """Whether this machine is of the profile's kind, as far as its processor says."""
    boards = profile.match.compatible or profile.match.model or profile.match.soc_model
    return platform.machine() in profile.match.machine and not boards


def _probed(profile: Profile, folder: Path, progress: process.Progress) -> tuple[KernelTable, ...]:
    """Kernel tables of this machine, where it is of the profile's kind."""
    if not of_this_machine(profile):
        return ()
    job = timing.TimingJob(probe=tuple(t.runtime for t in targets_here(profile)))
    return timing.run(folder, job, report=progress).tables


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str  # relative to ``out``
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    profile: Profile
    budget: Budget
    result: FitResult
    files: Mapping[str, _File]
    timed: timing.TimingResult
    emulated: bool
    notes: tuple[str, ...] = ()  # what registration found worth saying


def _write_artifacts(result: FitResult, out: Path) -> dict[str, _File]:
    """Copy every runtime file to ``out`` under its variant's name."""
    written = {}
    for variant in result.variants:
        folder = Path(result.folders[variant.bundle.variant])
        manifest = plain.from_plain(
            BundleManifest, json.loads((folder / MANIFEST_NAME).read_text())
        )
        path = f"{variant.name}.{variant.format}"
        shutil.copyfile(folder / manifest.artifact, out / path)
        written[variant.bundle.variant] = _File(
            path=path, sha256=digest.digest_bytes((out / path).read_bytes())
        )
    return written


def _report(found: _Found, *, seconds: float) -> dict[str, Any]:
    measured = {d: _measurement(found, d) for d in found.timed.timings}
    judged = found.budget
    if found.emulated:
        judged = replace(judged, latency_p95_max_ms=None)
    choice = choose(found.result.variants, judged, measured)
    return {
        "profile": found.profile.name,
        "budget": plain.to_plain(found.budget),
        "fp32_accuracy": found.result.fp32_accuracy,
        "fp32_bytes": found.result.fp32_bytes,
        "seconds": round(seconds, 2),
        "machine": platform.machine(),
        "notes": list(_notes(found)),
        "closest": "" if choice.chosen else choice.reason,
        "chosen": next(
            (v.name for v in found.result.variants if v.bundle.variant == choice.chosen), ""
        ),
        "variants": [_entry(v, found, choice) for v in found.result.variants],
        "failed": {**found.result.failed},
        "skipped": {**found.result.skipped},
        "left_alone": {k: list(lines) for k, lines in found.result.left_alone.items()},
        "schemes": {**found.result.reasons},
        "steps": [list(step) for step in found.result.steps],
    }


def _notes(found: _Found) -> Iterator[str]:
    yield from found.notes
    if found.emulated:
        yield EMULATED
    yield from found.result.remarks


def _entry(variant: Variant, found: _Found, choice: Choice) -> dict[str, Any]:
    key = variant.bundle.variant
    chosen = key == choice.chosen
    qualifies = "keeps to the budget" if key in choice.ranked else ""
    return {
        "name": variant.name,
        "variant": key,
        "runtime": variant.runtime,
        "format": variant.format,
        "scheme": variant.scheme,
        "path": found.files[key].path,
        "sha256": found.files[key].sha256,
        "recipe": list(variant.recipe),
        "accuracy": variant.accuracy,
        "accuracy_interval": plain.to_plain(variant.accuracy_interval),
        "guard_accuracy_drop": variant.guard_accuracy_drop,
        "agreement": variant.agreement,
        "flips": variant.flips,
        "guard_flips": variant.guard_flips,
        "must_pass_failed": variant.must_pass_failed,
        "operating": plain.to_plain(variant.operating),
        "slices": plain.to_plain(variant.slices),
        "sqnr_db": variant.sqnr_db,
        "integer_coverage": variant.integer_coverage,
        "file_bytes": variant.file_bytes,
        "wire_bytes": variant.wire_bytes,
        "macs": variant.macs,
        "latency": _latency(found, key),
        "chosen": chosen,
        "reason": choice.reason if chosen else choice.rejected.get(key, qualifies),
    }


def _latency(found: _Found, key: str) -> dict[str, Any]:
    """Value, unit, kind and verdict; a null value says why in ``reason``."""
    timed = found.timed.timings.get(key)
    if timed is None:
        why = found.timed.failed.get(key, "it was not timed")
        return {"value": None, "unit": "ms", "kind": None, "verdict": None, "reason": why}
    kind = CostKind.ESTIMATED if found.emulated else CostKind.MEASURED
    return {
        "value": round(timed.p50_ms, 5),
        "unit": "ms",
        "kind": kind.value,
        "verdict": timed.verdict.value,
        "p95": timed.p95_ms,
        "reason": "; ".join((*timed.reasons, *((EMULATED,) if found.emulated else ()))),
    }


def _measurement(found: _Found, key: str) -> Measurement:
    timed = found.timed.timings[key]
    return Measurement(
        id=f"local:{digest.short(key)}",
        bundle=key,
        runtime="",
        threads=1,
        verdict=timed.verdict,
        energy=Energy(status=ReadingStatus.UNAVAILABLE, reason="a local fit reads no power sensor"),
        latency=Latency(
            count=timed.count,
            mean_ms=timed.p50_ms,
            min_ms=timed.p50_low_ms,
            p50_ms=timed.p50_ms,
            p50_low_ms=timed.p50_low_ms,
            p50_high_ms=timed.p50_high_ms,
            p95_ms=timed.p95_ms,
        ),
        emulated=found.emulated,
    )


def _part(progress: process.Progress, low: float, high: float) -> process.Progress:
    def report(step: str, fraction: float) -> None:
        progress(step, low + (high - low) * fraction)

    return report
