"""How far latencies foretold by kernel tables are off, on networks that the tables never saw.

    python -m tests.benchmarks.compression.foretold --out DIR [--workload FOLDER ...]

This machine is probed as a fit does it (the graphs of `controller.compress.probe`), then networks
are foretold in fp32 and int8 on both runtimes, and timed, all files of one runtime interleaved. The
table holds none of their layers. It prints one table and writes ``foretold.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.catalog import check
from controller.catalog import workload as catalog
from controller.compress import execute
from controller.compress.base import Candidate, Context, Form
from controller.compress.graph import model as graphs
from controller.compress.graph.images import as_images
from controller.compress.passes.export import AcceptOnnx, ExportOnnx, load_onnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.prune_structured import PruneStructured
from controller.compress.predict import predict
from controller.compress.quantize import ranges, static
from controller.compress.recipe import Recipe
from controller.compress.timing import TimingJob, kernel_table
from controller.compress.toolchains import litert
from controller.errors import FitError
from controller.examples.fashion_mnist import workload as fashion

CUTS = (0.3, 0.5, 0.65)
SCHEMES = {"onnx": ("fp32", "u8s8"), "litert": ("fp32", "s8s8")}
ROUNDS, RUNS = 12, 20
Net = tuple[str, Any, Any]  # name, folded fp32 ONNX, real inputs


def networks(folders: list[Path]) -> Iterator[Net]:
    """The shipped network and cuts of it, two other image networks, and the workloads asked for.

    Weights do not change a dense kernel's time, so those of the cuts and of the depthwise network
    are not trained.
    """
    from tests.benchmarks.compression.resnet8 import trained
    from tests.benchmarks.compression.subjects.depthwise import DepthwiseNet

    shipped = catalog.load(Path(fashion.__file__).parent)
    yield from _of_workload("shipped", shipped, cuts=CUTS)
    context = context_of(shipped)
    for name, module in (("resnet8", trained()), ("depthwise", DepthwiseNet().eval())):
        yield name, exported(module, context), context.calibration
    for folder in folders:
        loaded = catalog.load(folder)
        yield from _of_workload(loaded.name, loaded)


def measure(out: Path, folders: list[Path]) -> list[dict[str, Any]]:
    """One row a network, runtime and scheme: foretold and measured milliseconds."""
    tables = {name: kernel_table(name, out / f"probe-{name}", TimingJob()) for name in SCHEMES}
    rows: list[dict[str, Any]] = []
    for name, model, inputs in networks(folders):
        for runtime, schemes in SCHEMES.items():
            files = dict(_files(name, model, inputs, runtime, schemes))
            timed = execute.time_interleaved(files, inputs[:16], rounds=ROUNDS, runs=RUNS)
            for scheme, found in timed.items():
                layers = graphs.layers(model, inputs)
                cost = predict(layers, tables[runtime], scheme)
                rows.append(
                    {
                        "network": name,
                        "runtime": runtime,
                        "scheme": scheme,
                        "layers": len(layers),
                        "foretold_ms": cost.value,
                        "kind": cost.kind.value,
                        "measured_ms": found.p50_ms,
                        "verdict": found.verdict.value,
                        "error": cost.value / found.p50_ms - 1,
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, and the median of the errors' sizes for each runtime and scheme."""
    lines = ["| network | runtime | scheme | foretold | measured | error | verdict |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['network']} | {r['runtime']} | {r['scheme']} | {r['foretold_ms']:.3f} ms | "
            f"{r['measured_ms']:.3f} ms | {100 * r['error']:+.0f} % | {r['verdict']} |"
        )
    for runtime, schemes in SCHEMES.items():
        for scheme in schemes:
            own = [r for r in rows if (r["runtime"], r["scheme"]) == (runtime, scheme)]
            if own:
                sizes = [abs(r["error"]) for r in own]
                middle = 100 * statistics.median(sizes)
                lines.append(f"\n{runtime} {scheme}: median {middle:.0f} %, of {len(sizes)}")
    middle = 100 * statistics.median(abs(r["error"]) for r in rows)
    return "\n".join([*lines, f"\nall: median {middle:.0f} %, of {len(rows)}"])


def _of_workload(name: str, loaded: Any, cuts: tuple[float, ...] = ()) -> Iterator[Net]:
    context = context_of(loaded)
    yield name, float_model(loaded, context), context.calibration
    for ratio in cuts:
        step = PruneStructured(ratio=ratio)
        start = Candidate(form=Form.TORCH, payload=loaded.source())
        cut = step.run(start, context).payload
        yield f"{name}, {ratio:.0%} cut", exported(cut, context), context.calibration


def context_of(loaded: Any) -> Context:
    """What passes may use of a workload, without a teacher."""
    return Context(workload=loaded, splits=check.load_splits(loaded), teacher=None)


def float_model(loaded: Any, context: Context) -> Any:
    """A workload's own network as folded fp32 ONNX."""
    source = loaded.source()
    if isinstance(source, (str, Path)):
        start = Candidate(form=Form.ONNX, payload=load_onnx(Path(source)))
        return AcceptOnnx().run(start, context).payload
    return exported(source, context)


def exported(module: Any, context: Context) -> Any:
    """A module as folded fp32 ONNX."""
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    return recipe.run(Candidate(form=Form.TORCH, payload=module), context).payload


def _files(
    name: str, model: Any, inputs: Any, runtime: str, schemes: tuple[str, ...]
) -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Scheme and file, for those that can be written."""
    for scheme in schemes:
        try:
            made = model
            if runtime == "litert":
                made = as_images(made)[0]
            if scheme != "fp32":
                made = static.quantize(made, ranges.collect(made, inputs[:128]), scheme=scheme)
            content = litert.convert(made) if runtime == "litert" else made.SerializeToString()
        except FitError as error:
            print(f"{name} on {runtime} in {scheme}: {error}", file=sys.stderr)
            continue
        yield scheme, (content, runtime)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workload", type=Path, action="append", default=[])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = measure(asked.out, asked.workload)
    (asked.out / "foretold.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
