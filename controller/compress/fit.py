"""Fit: climb the ladder for one target and give every variant with its evidence.

Each rung is guarded: what cannot be made is recorded with its reason and the ladder goes on.
Rungs are atomic and cached by digest, so a killed worker goes on where it was, and a fleet
never pays twice. Nothing is chosen here; budgets only say which dear rungs are needless.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.catalog import workload as catalog
from controller.catalog.foreign import translated
from controller.compress import evidence
from controller.compress.cache import FitCache
from controller.compress.passes.export import load_onnx
from controller.compress.predict import by_kind, predict
from controller.compress.quantize import storage
from controller.compress.rungs import Built, RungMaker, Settings
from controller.compress.search import ladder
from controller.compress.search.ladder import RuntimeTarget
from controller.compress.search.scheme import best_table
from controller.domain.fleet import Budget, Variant
from controller.domain.residuals import Residual, corrected
from controller.errors import FitError, FitmentError, WorkloadError
from fitment.core.kernels import KernelTable

FEEDS = "feeds.npy"
RESERVE = 0.1  # of the accuracy budget is kept back: guard figures have noise

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """One fit of one workload snapshot to one target."""

    workload_folder: str  # a snapshot
    runtimes: tuple[RuntimeTarget, ...]
    out: str  # folder for the transport files
    cache: str  # folder shared by all fits
    model_id: str = ""
    profile: str = ""
    kernel_tables: tuple[KernelTable, ...] = ()
    residuals: tuple[Residual, ...] = ()  # what devices of the profile measured over predictions
    budget: Budget = field(default_factory=Budget)
    effort: str = "quick"  # or "thorough"
    rungs: tuple[str, ...] = ()  # asked for beside the effort's, of `fleet.EXTRA_RUNGS`
    seed: int = 0
    threads: int = 2
    calibratable: bool = False
    channels_multiple_of: int = 8
    machine: str = ""  # of the target, as uname says; empty: this one


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """Every variant that could be made, in the ladder's order."""

    variants: tuple[Variant, ...]
    archives: Mapping[str, str]  # archive digest (`bundle.archive`) -> transport file
    folders: Mapping[str, str]  # variant digest -> bundle folder
    fp32_accuracy: float
    fp32_bytes: int
    feeds: str = ""  # .npy of a few real inputs in the source's layout, to time with
    steps: tuple[tuple[str, float], ...] = ()  # rung and its seconds
    cached: tuple[str, ...] = ()  # rungs that the cache had
    failed: Mapping[str, str] = field(default_factory=dict)  # rung -> why
    skipped: Mapping[str, str] = field(default_factory=dict)  # rung -> why it was needless
    reasons: Mapping[str, str] = field(default_factory=dict)  # runtime -> why these schemes
    left_alone: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # rung -> by its passes
    remarks: tuple[str, ...] = ()  # what a reader of the figures should know


def fit(request: FitRequest, progress: Progress) -> FitResult:
    """Climb the ladder. For worker processes: it runs the user's file.

    Raises:
        WorkloadError: the workload cannot be used.
        FitError: not even fp32 could be made, or the request is impossible.
    """
    progress("loading the workload", 0.0)
    started = time.perf_counter()
    maker = RungMaker(
        catalog.load(Path(request.workload_folder)),
        FitCache(Path(request.cache)),
        Settings(
            seed=request.seed,
            threads=request.threads,
            model_id=request.model_id,
            calibratable=request.calibratable,
        ),
    )
    plan = ladder.Plan(
        targets=request.runtimes,
        tables=request.kernel_tables,
        effort=request.effort,
        torch_source=maker.from_torch,
        multiple_of=request.channels_multiple_of,
        recover=maker.workload.recover,
        machine=request.machine,
        extras=request.rungs,
    )
    climb = _Climb(request, maker, plan, progress)
    climb.steps.append(("load", time.perf_counter() - started))
    return climb.run(ladder.build(plan))


class _Climb:
    """The state of one fit while it runs."""

    def __init__(
        self, request: FitRequest, maker: RungMaker, plan: ladder.Plan, progress: Progress
    ) -> None:
        self._request, self._maker, self._progress = request, maker, progress
        self._plain = ladder.plain_head(plan)
        self._built: dict[str, Built] = {}
        self._failed: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self.steps: list[tuple[str, float]] = []

    def run(self, asked: ladder.Ladder) -> FitResult:
        for index, rung in enumerate(asked.rungs):
            self._progress(rung.label, 0.02 + 0.96 * index / len(asked.rungs))
            needless = self._needless(rung)
            if needless:
                self._skipped[rung.label] = needless
                continue
            started = time.perf_counter()
            try:
                self._built[rung.label] = self._one(rung)
            except WorkloadError:
                raise
            except FitmentError as error:
                self._failed[rung.label] = str(error)
            self.steps.append((rung.label, time.perf_counter() - started))
        self._progress("done", 1.0)
        return self._result(asked)

    def _one(self, rung: ladder.Rung) -> Built:
        with translated(FitError, f"{rung.name} cannot be made"):
            found = self._maker.cached(rung) or self._maker.make(rung, self._plain)
            return replace(found, variant=self._priced(found.variant, rung))

    def _priced(self, variant: Variant, rung: ladder.Rung) -> Variant:
        """With a predicted latency, where the target's kernels were timed."""
        table = best_table(rung.runtime, self._request.kernel_tables)
        if table is None:
            return variant
        layers = self._maker.layers(rung.recipe.split()[0])
        try:
            predicted = predict(layers, table, rung.scheme)
            parts = by_kind(layers, table, rung.scheme)
        except FitError:  # the table lacks this scheme; a device will have to say
            return replace(variant, predicted=None, predicted_parts={})
        value, devices = corrected(parts, self._request.residuals, rung.runtime)
        cost = replace(predicted, value=value, devices=devices)
        return replace(variant, predicted=cost, predicted_parts=parts)

    def _needless(self, rung: ladder.Rung) -> str:
        """Why a dear rung need not be tried: its cheaper relative already answers it."""
        bare = replace(rung, name=f"fp32{rung.pruned}").label
        if rung.format == "tflite" and bare != rung.label and bare in self._failed:
            return f"{bare} cannot be written either"
        if rung.stored:
            return self._nothing_stored(replace(rung, name=f"int8-{rung.scheme}"))
        limit = self._request.budget.accuracy_drop_max
        if limit is None:
            return ""
        reserve = limit * (1.0 - RESERVE)
        if rung.calibrator not in ("", "minmax"):
            drop = self._drop(replace(rung, name=f"int8-{rung.scheme}"))
            if drop is not None and drop <= reserve:
                return f"minmax ranges already keep the guard drop at {drop:.4f}"
        lesser = max(limit, self._request.budget.lesser_accuracy_drop_max or 0.0)
        if rung.weight_bits < 8:
            drop = self._drop(replace(rung, name=f"int8-{rung.scheme}{rung.pruned}"))
            if drop is not None and drop > lesser:
                return f"with weights of eight bits it already drops {drop:.4f} on the guard set"
        if rung.pruned and rung.scheme != "fp32":
            drop = self._drop(replace(rung, name=f"fp32{rung.pruned}"))
            if drop is not None and drop > 2 * lesser:
                return f"its fp32 form already drops {drop:.4f} on the guard set"
        return ""

    def _nothing_stored(self, usual: ladder.Rung) -> str:
        """Why nothing is left to store small, or nothing; ``usual`` is the same without it."""
        built = self._built.get(usual.label)
        if built is None:
            return f"{usual.label} cannot be made either"
        left = storage.candidates(load_onnx(built.folder / "model.onnx"))
        return "" if left else f"no large weights of {usual.label} stayed float"

    def _drop(self, rung: ladder.Rung) -> float | None:
        built = self._built.get(rung.label)
        return None if built is None else built.variant.guard_accuracy_drop

    def _result(self, asked: ladder.Ladder) -> FitResult:
        fp32 = next((b for b in self._built.values() if b.variant.name == "fp32"), None)
        if fp32 is None:
            reasons = "; ".join(self._failed.values()) or "the ladder has no fp32 rung"
            raise FitError(f"not even fp32 could be made: {reasons}")
        variants = tuple(built.variant for built in self._built.values())
        out = Path(self._request.out)
        out.mkdir(parents=True, exist_ok=True)
        archives = {
            b.variant.bundle.archive: str(_copied(b.archive, out / f"{label}.tar.xz"))
            for label, b in self._built.items()
        }
        return FitResult(
            variants=variants,
            archives=archives,
            folders={b.variant.bundle.variant: str(b.folder) for b in self._built.values()},
            fp32_accuracy=fp32.variant.accuracy or 0.0,
            fp32_bytes=fp32.variant.file_bytes,
            feeds=str(self._maker.write_feeds(out / FEEDS)),
            steps=tuple((name, round(seconds, 3)) for name, seconds in self.steps),
            cached=tuple(n for n, b in self._built.items() if b.cached),
            failed=self._failed,
            skipped=self._skipped,
            reasons=asked.reasons,
            left_alone=self._left_alone(asked),
            remarks=tuple(self._remarks(fp32.variant)),
        )

    def _remarks(self, fp32: Variant) -> Iterator[str]:
        test, guard = fp32.accuracy_interval, fp32.guard_accuracy_interval
        if fp32.accuracy and fp32.guard_accuracy and test and guard:
            note = evidence.flattered(fp32.guard_accuracy, guard, fp32.accuracy, test)
            yield from filter(None, [note])
        count = len(self._maker.splits[catalog.GUARD])
        note = evidence.coarse(count, self._request.budget.accuracy_drop_max)
        yield from filter(None, [note])
        yield from self._maker.idle(self._plain)

    def _left_alone(self, asked: ladder.Ladder) -> dict[str, tuple[str, ...]]:
        """By rung: of a float network once, then what the steps behind it add."""
        found = {label: b.left_alone for label, b in self._built.items() if b.left_alone}
        told: set[str] = set()
        for rung in asked.rungs:
            head = rung.recipe.split()[0]
            if rung.label in self._built and head.digest not in told:
                told.add(head.digest)
                lines = self._maker.left_alone(head)
                if lines:
                    found[rung.label] = (*lines, *found.get(rung.label, ()))
        return found


def _copied(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target
