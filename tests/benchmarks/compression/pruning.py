"""Pruning side by side on the shipped network: criteria, schedules, zeros and their transfer.

    python -m tests.benchmarks.compression.pruning

Everything trained gets the same distillation on the same training images. What is chosen is chosen
on the guard set; the 10,000 test images are only reported. It rewrites its tables in the folder's
README and writes ``pruning.json``. Wire sizes are of whole bundles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRAINED, EPOCHS = 8_000, 2
RATIOS = (0.5, 0.65)
SHARES = (0.5, 0.65, 0.8, 0.9)  # of zeros, up to the first that loses more than the largest limit
LIMITS = (0.01, 0.02)
NEVER = 1e9  # seconds: the training must not be cut short by a busy machine
SPARSE: dict[str, dict[str, Any]] = {
    "magnitude, each layer": {"method": "magnitude"},
    "magnitude, one threshold": {"method": "magnitude", "scope": "global"},
    "LAMP": {"method": "lamp", "scope": "global"},
    "Wanda, each output": {"method": "wanda"},
    "Wanda, one threshold": {"method": "wanda", "scope": "global"},
    "SparseGPT, each layer": {"method": "sparsegpt"},
    "SparseGPT, shares by LAMP": {"method": "sparsegpt", "scope": "global"},
    "SparseGPT, refitted": {"method": "sparsegpt", "refit": True},
    "SparseGPT, LAMP, refitted": {"method": "sparsegpt", "scope": "global", "refit": True},
}
PATTERNED = ("magnitude", "wanda", "sparsegpt")  # 2:4
ON_PRUNED = ((0.0, 8), (0.0, 4), (0.3, 8), (0.3, 4), (0.5, 8), (0.5, 4))  # zeros, bits
TRAINED_ZEROS = (0.0, 0.5, 0.7)
START, END = "<!-- pruning: made by pruning.py -->", "<!-- end of pruning -->"
README = Path(__file__).with_name("README.md")


TABLES = ("structured", "sparse", "on_pruned", "other")


def measure(out: Path, only: tuple[str, ...]) -> dict[str, Any]:
    """The tables asked for; rows that ``pruning.json`` has are kept, so a run can be gone on with.

    All of them take some twelve minutes of one core.
    """
    import torch

    from controller.compress.passes.distil import Distil
    from tests.benchmarks.compression.bench import Bench, Clock

    torch.set_num_threads(1)
    saved, clock = out / "pruning.json", Clock()
    found: dict[str, Any] = json.loads(saved.read_text()) if saved.exists() else {"cpu_s": {}}
    rows = [row for table in TABLES for row in found.get(table, [])]
    bench = Bench(out, known={row["name"]: row for row in (*rows, found.get("fp32", {}))
                              if "name" in row})  # fmt: skip
    distil = Distil(epochs=EPOCHS, samples=TRAINED, max_seconds=NEVER)
    found |= {"trained": TRAINED, "epochs": EPOCHS, "fp32": bench.fp32}
    makers = {
        "structured": _structured, "sparse": _sparse, "on_pruned": _on_pruned, "other": _other_ways,
    }  # fmt: skip
    for table in only:
        found.setdefault(table, [])
        found["cpu_s"].setdefault(table, 0.0)
        for row in makers[table](bench, distil):
            found[table].append(row)
            found["cpu_s"][table] += clock.lap()
            saved.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _structured(bench: Any, distil: Any) -> Iterator[dict[str, Any]]:
    """Each criterion at each ratio, before and after the same distillation."""
    from controller.compress.base import Candidate, Form, Property
    from controller.compress.passes.prune_structured import PruneStructured
    from controller.compress.prune.criteria import CRITERIA
    from tests.benchmarks.compression.bench import Clock

    clock = Clock()
    whole = Candidate(
        form=Form.TORCH, payload=bench.start.payload, properties=frozenset({Property.PRUNED})
    )
    if "nothing-pruned" not in bench.known:
        made = bench.measure("nothing-pruned", bench.run(whole, (distil,)))
        yield {"what": "nothing (control)", "ratio": 0.0, **made}
    for ratio in RATIOS:
        for name in CRITERIA:
            if f"fp32-{name}-{ratio}" in bench.known:
                continue
            clock.lap()
            step = PruneStructured(ratio=ratio, criterion=name)
            pruned = step.run(bench.start, bench.context)
            seconds = clock.lap()
            raw = bench.accuracy(pruned.payload)
            clock.lap()
            recovered = bench.run(pruned, (distil,))
            training = clock.lap()
            made = bench.measure(f"fp32-{name}-{ratio}", recovered)
            yield {"what": name, "ratio": ratio, "raw": raw, "prune_s": seconds,
                   "train_s": training, **made}  # fmt: skip


def _other_ways(bench: Any, distil: Any) -> Iterator[dict[str, Any]]:
    """Rounds, and widths by NetAdapt at the arithmetic that each uniform ratio leaves."""
    from controller.compress.graph import model as graphs
    from controller.compress.passes.prune_adapted import PruneAdapted
    from controller.compress.passes.prune_structured import PruneStructured
    from controller.compress.prune.schedule import structured_rounds
    from tests.benchmarks.compression.bench import Clock

    clock = Clock()
    for ratio in reversed(RATIOS):
        if f"fp32-rounds-{ratio}" in bench.known:
            continue
        uniform = bench.run(bench.start, (PruneStructured(ratio=ratio),))
        left = graphs.macs(uniform.payload) / bench.fp32["macs"]
        clock.lap()
        step = PruneAdapted(target=round(left + 5e-5, 4), judged=768)
        pruned = step.run(bench.start, bench.context)
        seconds = clock.lap()
        raw = bench.accuracy(pruned.payload)
        made = bench.measure(f"fp32-adapted-{ratio}", bench.run(pruned, (distil,)))
        yield {"what": "NetAdapt, as many MACs", "ratio": ratio, "raw": raw, "prune_s": seconds,
               "notes": pruned.evidence[-1].notes, **made}  # fmt: skip
        steps = structured_rounds(ratio, 3, recovery=distil, criterion="thinet")
        made = bench.measure(f"fp32-rounds-{ratio}", bench.run(bench.start, steps))
        yield {"what": "thinet, 3 rounds", "ratio": ratio, **made}


def _sparse(bench: Any, _distil: Any) -> Iterator[dict[str, Any]]:
    """Zeros in the network as trained, then int8; nothing is trained and no label is used."""
    if "int8" not in bench.known:
        made = bench.measure("int8", bench.run(bench.plain, _int8()), "u8s8")
        yield {"what": "int8 without zeros", "share": 0.0, **made}
    for name, settings in SPARSE.items():
        for share in SHARES:
            row = bench.known.get(f"{name}-{share}")
            if row is None:
                row = _sparse_row(bench, name, {"sparsity": share, **settings})
                yield row
            if row["guard_drop"] > max(LIMITS):
                break
    for method in PATTERNED:
        if f"{method}, 2:4-0.5" not in bench.known:
            yield _sparse_row(bench, f"{method}, 2:4", {"method": method, "pattern": "2:4"})


def _sparse_row(bench: Any, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    from controller.compress.passes.sparsify import Sparsify
    from tests.benchmarks.compression.bench import Clock

    clock = Clock()
    step = Sparsify(**settings)
    sparse = step.run(bench.plain, bench.context)
    seconds = clock.lap()
    made = bench.measure(f"{name}-{step.sparsity}", bench.run(sparse, _int8()), "u8s8")
    evidence = sparse.evidence[-1]
    traps = [note for note in evidence.notes if note.startswith("trap")]
    return {"what": name, "share": step.sparsity, "prune_s": seconds, "traps": traps, **made}


def _on_pruned(bench: Any, distil: Any) -> Iterator[dict[str, Any]]:
    """Zeros and few levels in what was pruned by half and distilled, once and twice."""
    from controller.compress.passes.prune_structured import PruneStructured
    from controller.compress.passes.sparsify import Sparsify
    from controller.compress.prune.schedule import weight_rounds
    from controller.compress.recipe import Recipe

    cut = PruneStructured(ratio=RATIOS[0], criterion="thinet")
    head = Recipe(steps=(cut, distil)).run(bench.start, bench.context)
    once = bench.run(head, ())
    for share, bits in ON_PRUNED:
        steps = (Sparsify(sparsity=share, refit=True), *_int8(bits)) if share else _int8(bits)
        made = bench.measure(f"pruned-zeros{share}-w{bits}", bench.run(once, steps), "u8s8")
        yield {"what": "zeros afterwards", "share": share, "bits": bits, **made}
    for share in TRAINED_ZEROS:
        steps = weight_rounds(share, 3, recovery=distil) if share else (distil,)
        twice = bench.run(head, steps)
        for bits in (8, 4):
            made = bench.measure(
                f"twice-zeros{share}-w{bits}", bench.run(twice, _int8(bits)), "u8s8"
            )
            yield {"what": "distilled again, zeros held", "share": share, "bits": bits, **made}


def _int8(bits: int = 8) -> tuple[Any, ...]:
    from controller.compress.passes.bias_correct import BiasCorrect
    from controller.compress.passes.quantize_static import QuantizeStatic
    from controller.compress.passes.reconstruct import Reconstruct

    few = (Reconstruct(bits=bits),) if bits < 8 else ()
    return (QuantizeStatic(scheme="u8s8"), *few, BiasCorrect())


def tables(found: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    fp32 = found["fp32"]
    best = [_best(_of(found, "sparse"), name, limit) for name in _names(found) for limit in LIMITS]
    minutes = sum(found["cpu_s"].values()) / 60
    ran = (
        f"fp32: {_percent(fp32)} %, {fp32['macs'] / 1e6:.1f} M multiply-accumulates, "
        f"{fp32['file_bytes'] / 1e3:.0f} kB as a file. Distillation: {found['epochs']} epochs over "
        f"{found['trained']:,} training images. The run took {minutes:.0f} minutes of one core."
    )
    return "\n".join(
        [
            ran,
            "",
            "| structured | cut | accuracy at once | distilled | points lost | MACs | pruning |",
            "|---|---|---|---|---|---|---|",
            *(_structured_line(row, fp32) for row in _of(found, "structured", "other")),
            "",
            "| zeros, then int8 | at ≤ 1.0 point | lost | wire | at ≤ 2.0 points | lost | wire |",
            "|---|---|---|---|---|---|---|",
            *(_pair_line(one, two, fp32) for one, two in zip(best[::2], best[1::2], strict=True)),
            *_few_table(_of(found, "on_pruned"), fp32),
        ]
    )


def _of(found: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [row for name in names for row in found.get(name, [])]


def _few_table(rows: list[dict[str, Any]], fp32: dict[str, Any]) -> list[str]:
    if not rows:
        return []
    return [
        "",
        "| pruned by half (ThiNet), distilled, int8 | zeros | bits | accuracy | lost | wire |",
        "|---|---|---|---|---|---|",
        *(_few_line(row, fp32) for row in rows),
    ]


def _few_line(row: dict[str, Any], fp32: dict[str, Any]) -> str:
    return (
        f"| {row['what']} | {100 * row['share']:.0f} % | {row['bits']} | {_percent(row)} % | "
        f"{_lost(row, fp32)} | {_wire(row)} |"
    )


def _names(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["what"] for row in _of(found, "sparse")))


def _best(rows: list[dict[str, Any]], name: str, limit: float) -> dict[str, Any]:
    """The smallest transfer of a method whose guard drop is within the limit."""
    fitting = [r for r in rows if r["what"] == name and r["guard_drop"] <= limit]
    return min(fitting, key=lambda r: r["wire_bytes"], default={"what": name})


def _pair_line(one: dict[str, Any], two: dict[str, Any], fp32: dict[str, Any]) -> str:
    def cells(row: dict[str, Any]) -> str:
        if "share" not in row:
            return "none | | "
        return f"{100 * row['share']:.0f} % | {_lost(row, fp32)} | {_wire(row)}"

    return f"| {one['what']} | {cells(one)} | {cells(two)} |"


def _structured_line(row: dict[str, Any], fp32: dict[str, Any]) -> str:
    raw = f"{100 * row['raw']:.1f} %" if row.get("raw") is not None else ""
    seconds = f"{row['prune_s']:.1f} s" if row.get("prune_s") is not None else ""
    return (
        f"| {row['what']} | {100 * row['ratio']:.0f} % | {raw} | {_percent(row)} % | "
        f"{_lost(row, fp32)} | {row['macs'] / 1e6:.1f} M | {seconds} |"
    )


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f}"


def _lost(row: dict[str, Any], fp32: dict[str, Any]) -> str:
    return f"{100 * (fp32['accuracy'] - row['accuracy']):.2f}"


def _wire(row: dict[str, Any]) -> str:
    return f"{row['wire_bytes'] / 1e3:.0f} kB"


def main() -> int:
    """Measure, and rewrite the tables from ``pruning.json``."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.pruning")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument(
        "--only", choices=TABLES, nargs="*", default=TABLES, help="none: only write"
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before any library
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        measure(out, tuple(arguments.only))
    made = tables(json.loads((out / "pruning.json").read_text()))
    text = README.read_text()
    before, after = text.split(START)[0], text.split(END)[1]
    README.write_text(f"{before}{START}\n\n{made}\n\n{END}{after}")
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
