"""Fitment as one more tool: ``python -m tests.benchmarks.compression.peers.fitment JOB.json``.

Post-training it gets the ONNX file alone and a thorough fit; where training is allowed it gets
the module and a quick one. What it takes includes running every rung on guard and test data,
which no peer does.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from controller.compress.fit import FitRequest, fit
from controller.compress.local import targets_here
from controller.domain.fleet import Budget
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest
from profiles import load_profile

PROFILE = "generic-x86_64"


def main() -> int:
    """Fit, and write every variant with its record."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    out = Path(asked["out"])
    marks: list[tuple[str, float, float]] = []

    def progress(step: str, _done: float) -> None:
        marks.append((step, time.perf_counter(), time.process_time()))

    found = fit(
        FitRequest(
            workload_folder=asked["workload"],
            runtimes=targets_here(load_profile(PROFILE)),
            out=str(out / "archives"),
            cache=str(out / "cache"),
            budget=plain.from_plain(Budget, asked["budget"]),
            effort=asked["effort"],
            threads=1,
        ),
        progress,
    )
    kept = out / "taken.json"  # what the cache answers took its seconds in an earlier run
    taken = json.loads(kept.read_text()) if kept.is_file() else {}
    for (step, wall, cpu), after in itertools.pairwise(marks):
        if step not in found.cached or step not in taken:
            taken[step] = (after[1] - wall, after[2] - cpu)
    kept.write_text(json.dumps(taken))
    points = []
    for variant in found.variants:
        folder = Path(found.folders[variant.bundle.variant])
        manifest = plain.from_plain(
            BundleManifest, json.loads((folder / MANIFEST_NAME).read_text())
        )
        at = "" if variant.runtime == "onnx" else f"@{variant.runtime}"
        file = f"{variant.name}.{variant.format}"
        shutil.copyfile(folder / manifest.artifact, out / file)
        wall, cpu = taken[variant.name + at]
        points.append(
            {
                "name": variant.name + at,
                "file": file,
                "runtime": variant.runtime,
                "labels": asked["effort"] == "quick",
                "note": " > ".join(variant.recipe),
                "wall_s": wall,
                "cpu_s": cpu,
                "variant": plain.to_plain(variant),
            }
        )
    record: dict[str, Any] = {
        "points": points,
        "failed": dict(found.failed),
        "skipped": dict(found.skipped),
        "versions": {},
    }
    (out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
