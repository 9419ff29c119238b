"""Make one rung of the ladder: model, artifact, evidence, bundle; or find it in the cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import check
from controller.catalog.process import write_json
from controller.catalog.snapshot import content_digest
from controller.catalog.workload import CALIBRATION, GUARD, MUST_PASS, TEST, TRAIN, Workload
from controller.compress import bundle, calibration, evidence, execute, golden, idle, operating
from controller.compress.base import Candidate, Context, Form
from controller.compress.cache import FitCache, fit_key, tool_versions
from controller.compress.graph import model as graph_model
from controller.compress.passes.export import load_onnx
from controller.compress.passes.slimmable import family_of
from controller.compress.recipe import Recipe
from controller.compress.search.ladder import Rung
from controller.compress.search.scheme import STATIC
from controller.domain.fleet import Variant
from controller.errors import FitError
from fitment.core import digest, plain
from fitment.core.bundle import IoSpec

FEEDS = 16  # inputs that timing feeds in turn
CHUNK = 1024  # inputs made real at a time
VARIANT, HEAD, BUNDLE, STEPS = "variant.json", "model.onnx", "bundle", "steps.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A finished rung: its record, transport file and bundle folder."""

    variant: Variant
    archive: Path
    folder: Path
    cached: bool
    left_alone: tuple[str, ...] = ()  # by the steps behind the float network, a line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What holds for all rungs of one fit."""

    seed: int = 0
    threads: int = 1
    model_id: str = ""
    calibratable: bool = False  # its devices may calibrate it on their own data


class RungMaker:
    """Makes rungs of one workload. Heads, outputs of fp32 and teacher logits are kept."""

    def __init__(self, workload: Workload, cache: FitCache, settings: Settings) -> None:
        self.workload = workload
        self.splits = check.load_splits(workload)
        check.check_disjoint(workload.name, self.splits)
        self._cache = cache
        self._settings = settings
        self._tools = tool_versions()
        self._digests = {name: check.split_digest(s) for name, s in self.splits.items()}
        self._source_digest = content_digest(workload.folder)
        self._source: Any = None
        self._memory: dict[str, Any] = {}
        self._heads: dict[str, Any] = {}
        self._reference: evidence.Outputs | None = None

    @property
    def source(self) -> Any:
        """The user's module or ONNX path, loaded when first needed."""
        if self._source is None:
            self._source = self.workload.source()
        return self._source

    @property
    def from_torch(self) -> bool:
        """Whether the source is a torch module.

        Remembered, so that a fit that the cache answers in full need not load it.
        """
        key = fit_key({"source": self._source_digest, "tools": self._tools})
        folder = self._cache.get("sources", key)
        if folder is None:
            kind = "onnx" if isinstance(self.source, Path) else "torch"
            folder = self._cache.put(
                "sources", key, lambda into: write_json(into / "kind.json", {"kind": kind})
            )
        return bool(json.loads((folder / "kind.json").read_text())["kind"] == "torch")

    def head(self, recipe: Recipe) -> Any:
        """The fp32 ONNX model of a target-independent recipe; made once for all cohorts.

        Raises:
            FitError, WorkloadError: it cannot be made.
        """
        key = self._head_key(recipe)
        if key not in self._heads:
            folder = self._cache.get("heads", key)
            if folder is None:
                made = recipe.run(self._candidate(), self._context())
                folder = self._cache.put("heads", key, lambda into: _write_head(into, made))
            self._heads[key] = load_onnx(folder / HEAD)
        return self._heads[key]

    def left_alone(self, head: Recipe) -> tuple[str, ...]:
        """What the steps of a float network that was made left alone, a line each."""
        folder = self._cache.get("heads", self._head_key(head))
        return () if folder is None else _notes(folder)

    def reference(self, plain_head: Recipe) -> evidence.Outputs:
        """fp32 outputs of the user's own network on guard and test set."""
        if self._reference is None:
            content: bytes = self.head(plain_head).SerializeToString(deterministic=True)
            self._reference = self._outputs(content, "onnx")
        return self._reference

    def layers(self, recipe: Recipe) -> tuple[graph_model.LayerShape, ...]:
        """Heavy layers of the fp32 model of a recipe."""
        return graph_model.layers(self.head(recipe), self._context().calibration)

    def idle(self, recipe: Recipe) -> tuple[str, ...]:
        """Layers of the fp32 model of a recipe that have channels which do nothing, a line each."""
        return idle.remarks(self.head(recipe), self._context().calibration)

    def write_feeds(self, target: Path) -> Path:
        """Write a few real guard inputs, in the source's layout, for timing."""
        np.save(target, self.workload.real(self.splits[GUARD].inputs[:FEEDS]), allow_pickle=False)
        return target

    def cached(self, rung: Rung) -> Built | None:
        """The rung from the cache, or None."""
        folder = self._cache.get("rungs", self._rung_key(rung))
        return None if folder is None else self._read(folder, cached=True)

    def make(self, rung: Rung, plain_head: Recipe) -> Built:
        """Make the rung and put it into the cache.

        Raises:
            FitError, WorkloadError: it cannot be made.
        """
        head, tail = rung.recipe.split()
        fp32 = self.head(head)
        start = Candidate(form=Form.ONNX, payload=fp32)
        finished = tail.run(start, self._context())
        content = _content(finished)
        found = self._outputs(content, rung.runtime)
        reference = self.reference(plain_head)
        facts = evidence.gather(
            self.workload, self.splits, found, reference, seed=self._settings.seed
        )
        key = self._rung_key(rung)

        def write(into: Path) -> None:
            base = finished.fp32 or fp32
            self._write(into, rung, _Finished(content, finished, base, found, facts))

        return self._read(self._cache.put("rungs", key, write), cached=False)

    def _candidate(self) -> Candidate:
        source = self.source
        if isinstance(source, Path):
            return Candidate(form=Form.ONNX, payload=load_onnx(source))
        return Candidate(form=Form.TORCH, payload=source)

    def _context(self) -> Context:
        return Context(
            workload=self.workload,
            splits=self.splits,
            teacher=None if isinstance(self._source, Path) else self._source,
            seed=self._settings.seed,
            threads=self._settings.threads,
            memory=self._memory,
        )

    def _outputs(self, content: bytes, runtime: str) -> evidence.Outputs:
        """Outputs on guard and test set; the same file is not run twice."""
        key = f"outputs:{runtime}:{digest.digest_bytes(content)}"
        if key not in self._memory:
            self._memory[key] = self._run(content, runtime)
        known: evidence.Outputs = self._memory[key]
        return known

    def _run(self, content: bytes, runtime: str) -> evidence.Outputs:
        def over(stored: NDArray[Any]) -> NDArray[np.float32]:
            parts = []
            for start in range(0, len(stored), CHUNK):
                real = self.workload.real(stored[start : start + CHUNK])
                parts.append(
                    execute.outputs(content, runtime, real, threads=self._settings.threads)
                )
            return np.concatenate(parts)

        must = self.splits.get(MUST_PASS)
        return evidence.Outputs(
            guard=over(self.splits[GUARD].inputs),
            test=over(self.splits[TEST].inputs),
            must_pass=None if must is None else over(must.inputs),
        )

    def _head_key(self, recipe: Recipe) -> str:
        used = {n: d for n, d in self._digests.items() if n in (CALIBRATION, TRAIN)}
        return fit_key(
            {
                "source": self._source_digest,
                "recipe": recipe.digest,
                "data": used,
                "seed": self._settings.seed,
                "tools": self._tools,
            }
        )

    def _rung_key(self, rung: Rung) -> str:
        return fit_key(
            {
                "source": self._source_digest,
                "recipe": rung.recipe.digest,
                "target": [rung.name, rung.runtime, rung.format, rung.scheme],
                "calibratable": "inputs" if self._settings.calibratable else "",
                "data": self._digests,
                "seed": self._settings.seed,
                "tools": self._tools,
            }
        )

    def _lineage(self, rung: Rung) -> Mapping[str, str]:
        family = family_of(rung.recipe)
        return {
            **({"family": family} if family else {}),
            "source": self._source_digest,
            "recipe": rung.recipe.digest,
            "steps": " > ".join(rung.recipe.text),
            "calibration_set": self._digests[CALIBRATION],
            "seed": str(self._settings.seed),
            "tools": ", ".join(f"{name} {v}" for name, v in sorted(self._tools.items())),
            "fit_key": self._rung_key(rung),
        }

    def _write(self, into: Path, rung: Rung, made: _Finished) -> None:
        patch = self._patch(rung, made) if self._settings.calibratable else None
        built = bundle.build(self._bundle(rung, made, patch), into / BUNDLE)
        variant = replace(
            self._variant(rung, made, built),
            calibratable=patch is not None,
            patchable=patch is not None and patch.manifest.stem is not None,
        )
        write_json(into / "places.json", _places(built, into))
        write_json(into / STEPS, {"steps": plain.to_plain(made.candidate.evidence)})
        write_json(into / VARIANT, variant)

    def _patch(self, rung: Rung, made: _Finished) -> calibration.PatchFiles | None:
        """What a device needs for calibrating it: places in the file, or the inputs' reference."""
        inputs = self._context().calibration
        static = rung.runtime == "onnx" and rung.scheme in STATIC
        found = calibration.stem_patch(made.fp32, made.content, inputs) if static else None
        return found or calibration.input_patch(made.content, inputs)

    def _bundle(
        self, rung: Rung, made: _Finished, patch: calibration.PatchFiles | None
    ) -> bundle.BundleRequest:
        workload, reference = self.workload, self._reference
        if reference is None:
            raise FitError("fp32 outputs are needed before a bundle can be made")
        chosen = golden.choose(
            self.splits[GUARD].inputs, made.found.guard, reference.guard, scheme=rung.scheme
        )
        io = execute.io_spec(
            made.content,
            rung.runtime,
            labels=workload.labels,
            preprocessing=workload.preprocessing,
        )
        return bundle.BundleRequest(
            name=rung.name,
            model=workload.name,
            version=workload.version,
            format=rung.format,
            runtime=rung.runtime,
            scheme=rung.scheme,
            artifact=made.content,
            io=io,
            golden_inputs=_stored(chosen.inputs, io),
            golden_outputs=chosen.outputs,
            golden_reference=chosen.reference,
            inputs_scale=workload.input_scale,
            tolerance=chosen.tolerance,
            labels=workload.labels,
            lineage=self._lineage(rung),
            patch=patch,
            decision=operating.decision(workload, made.facts.operating, _width(made.found.guard)),
        )

    def _variant(self, rung: Rung, made: _Finished, built: bundle.BuiltBundle) -> Variant:
        facts = made.facts
        return Variant(
            name=rung.name,
            bundle=built.ref,
            model=self._settings.model_id,
            format=rung.format,
            runtime=rung.runtime,
            scheme=rung.scheme,
            recipe=rung.recipe.text,
            recipe_digest=rung.recipe.digest,
            accuracy=facts.accuracy,
            accuracy_interval=facts.accuracy_interval,
            agreement=facts.agreement,
            sqnr_db=facts.sqnr_db,
            guard_accuracy=facts.guard_accuracy,
            guard_accuracy_interval=facts.guard_accuracy_interval,
            guard_accuracy_drop=facts.guard_accuracy_drop,
            guard_agreement=facts.guard_agreement,
            slices=facts.slices,
            flips=facts.flips,
            guard_flips=facts.guard_flips,
            must_pass_failed=facts.must_pass_failed,
            operating=facts.operating,
            integer_coverage=execute.integer_coverage(made.content, rung.runtime),
            file_bytes=len(made.content),
            wire_bytes=built.wire_bytes,
            macs=graph_model.macs(made.fp32, self._context().calibration),
            lineage=self._lineage(rung),
        )

    def _read(self, folder: Path, *, cached: bool) -> Built:
        variant = plain.from_plain(Variant, json.loads((folder / VARIANT).read_text()))
        places = json.loads((folder / "places.json").read_text())
        return Built(
            variant=replace(variant, model=self._settings.model_id),
            archive=folder / places["archive"],
            folder=folder / places["folder"],
            cached=cached,
            left_alone=_notes(folder),
        )


@dataclass(frozen=True, slots=True)
class _Finished:
    content: bytes
    candidate: Candidate
    fp32: Any
    found: evidence.Outputs
    facts: evidence.Evidence


def _width(outputs: NDArray[np.float32]) -> int:
    return outputs.shape[1] if outputs.ndim > 1 else 1


def _stored(inputs: NDArray[Any], io: IoSpec) -> NDArray[Any]:
    """Stored inputs in the file's layout; golden inputs are fed as they lie."""
    if io.layout == "NHWC":
        return np.ascontiguousarray(np.moveaxis(inputs, 1, -1))
    return inputs


def _content(candidate: Candidate) -> bytes:
    if candidate.form is Form.TFLITE:
        return bytes(candidate.payload)
    content: bytes = candidate.payload.SerializeToString(deterministic=True)
    return content


def _notes(folder: Path) -> tuple[str, ...]:
    """The notes of the steps that a cached part was made by."""
    steps = json.loads((folder / STEPS).read_text())["steps"]
    named = ((step["step"].split("(")[0], note) for step in steps for note in step["notes"])
    return tuple(f"{name}: {note}" for name, note in named)


def _write_head(into: Path, made: Candidate) -> None:
    (into / HEAD).write_bytes(_content(made))
    steps = [plain.to_plain(e) for e in made.evidence]
    write_json(into / STEPS, {"steps": steps, "sha256": digest.digest_bytes(_content(made))})


def _places(built: bundle.BuiltBundle, root: Path) -> dict[str, str]:
    """Where the parts of a bundle are, below ``root``."""
    return {
        "archive": built.archive_path.relative_to(root).as_posix(),
        "folder": built.folder.relative_to(root).as_posix(),
        "artifact": built.manifest.artifact,
    }
