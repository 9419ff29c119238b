"""What benchmarks of pruning share: the shipped network, one evaluation, whole bundles."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller.catalog import check
from controller.catalog import workload as catalog
from controller.catalog.workload import GUARD, TEST
from controller.compress import bundle, evidence, execute, golden
from controller.compress.base import Candidate, Context, Form, Pass
from controller.compress.graph import model as graphs
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.recipe import Recipe
from controller.examples.fashion_mnist import workload
from fitment.core.digest import digest_bytes

FINISH = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))


class Bench:
    """One run: candidates go in, rows of figures come out."""

    def __init__(self, out: Path, known: Mapping[str, dict[str, Any]]) -> None:
        self._out, self.known = out, known
        loaded = catalog.load(Path(workload.__file__).parent)
        self.splits = check.load_splits(loaded)
        net = loaded.source()
        self.context = Context(workload=loaded, splits=self.splits, teacher=net)
        self.start = Candidate(form=Form.TORCH, payload=net)
        self.plain = self.run(self.start, ())
        self._reference = self._fp32_outputs()
        self.fp32 = known.get("fp32") or self.measure("fp32", self.plain)

    def run(self, candidate: Candidate, steps: tuple[Pass, ...]) -> Candidate:
        """Run steps; a torch candidate is folded and exported after them."""
        recipe = Recipe(steps=steps)
        if candidate.form is Form.TORCH:
            recipe = recipe + FINISH
        return recipe.run(candidate, self.context)

    def measure(self, name: str, made: Candidate, scheme: str = "fp32") -> dict[str, Any]:
        """Accuracy, agreement, arithmetic and bytes of one candidate in ONNX form."""
        content = _content(made.payload)
        found = self._outputs(content)
        known = self.context.workload
        facts = evidence.gather(known, dict(self.splits), found, self._reference, seed=0)
        row = {
            "name": name,
            "accuracy": facts.accuracy,
            "guard_drop": facts.guard_accuracy_drop,
            "agreement": facts.agreement,
            "macs": graphs.macs(made.payload),
            "file_bytes": len(content),
            "wire_bytes": self._wire_bytes(name, content, found, scheme),
        }
        say(f"{name}: {100 * facts.accuracy:.2f} %, {row['wire_bytes']:,} B on the wire")
        return row

    def accuracy(self, module: Any) -> float:
        """Of a torch module on the test images."""
        import torch

        split, outputs = self.splits[TEST], []
        with torch.inference_mode():
            for start in range(0, len(split), 500):
                real = self.context.workload.real(split.inputs[start : start + 500])
                outputs.append(module(torch.from_numpy(real.copy())).numpy())
        return self.context.workload.metric(np.concatenate(outputs), split.labels)

    def _fp32_outputs(self) -> evidence.Outputs:
        """Those of the network as it was given, from an earlier run where there was one."""
        content, saved = _content(self.plain.payload), self._out / "fp32.npz"
        digest = digest_bytes(content)
        if saved.is_file():
            with np.load(saved, allow_pickle=False) as held:
                if str(held["digest"]) == digest:
                    return evidence.Outputs(guard=held["guard"], test=held["test"])
        found = self._outputs(content)
        np.savez(saved, digest=digest, guard=found.guard, test=found.test)
        return found

    def _outputs(self, content: bytes) -> evidence.Outputs:
        def over(name: str) -> Any:
            stored = self.splits[name].inputs
            parts = [
                execute.outputs(content, "onnx", self.context.workload.real(stored[i : i + 1024]))
                for i in range(0, len(stored), 1024)
            ]
            return np.concatenate(parts)

        return evidence.Outputs(guard=over(GUARD), test=over(TEST))

    def _wire_bytes(self, name: str, content: bytes, found: evidence.Outputs, scheme: str) -> int:
        stored = self.splits[GUARD].inputs
        chosen = golden.choose(stored, found.guard, self._reference.guard, scheme=scheme)
        known = self.context.workload
        request = bundle.BundleRequest(
            name=name.replace(" ", "-").replace(",", "").replace(":", "of"),
            model=known.name, version=known.version, format="onnx", runtime="onnx", scheme=scheme,
            artifact=content, io=execute.io_spec(content, "onnx", labels=known.labels),
            golden_inputs=chosen.inputs, golden_outputs=chosen.outputs,
            golden_reference=chosen.reference, inputs_scale=known.input_scale,
            tolerance=chosen.tolerance, labels=known.labels,
        )  # fmt: skip
        return bundle.build(request, self._out / "bundles").wire_bytes


class Clock:
    """Seconds of this process's processor time since it was made or last read."""

    def __init__(self) -> None:
        self._began = time.process_time()

    def lap(self) -> float:
        """Seconds, and begin anew."""
        now = time.process_time()
        taken, self._began = now - self._began, now
        return taken


def say(text: str) -> None:
    """Progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def _content(model: Any) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content
