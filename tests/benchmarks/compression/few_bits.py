"""Weights of 4, 3 and 2 bits without labels and without training, on a ResNet-8.

    python -m tests.benchmarks.compression.few_bits

Every rounding with and without cross-layer equalization, first and last layer at 8 bits, bias
correction under its guard, 512 training images for calibration. Test images choose nothing. The
checkpoint is trained anew (`resnet8`) where it is missing. A run that was cut off goes on where it
was; delete ``few_bits.json`` to begin again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (4, 3, 2)
ROUNDINGS = ("gptq", "both", "adaround", "nearest")
CALIBRATION_IMAGES = 512
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant to make."""

    bits: int
    rounding: str = ""
    equalized: bool = False
    per_channel: bool = True
    codebook: str = ""  # "palette of 16", "ternary", "binary": no reconstruction, size only

    @property
    def name(self) -> str:
        if self.codebook:
            return f"{self.codebook} in 8 bits"
        scales = "" if self.per_channel else ", one scale a tensor"
        return f"{self.bits} bits{', ' if self.rounding else ''}{self.rounding}{scales}"


def rows() -> Iterator[Row]:
    """What is claimed comes first; equalized rows and 8 bits are there to compare with."""
    for equalized in (False, True):
        for bits in BITS:
            for rounding in ROUNDINGS:
                yield Row(bits=bits, rounding=rounding, equalized=equalized)
        for per_channel in (True, False):
            yield Row(bits=8, equalized=equalized, per_channel=per_channel)
    for codebook in ("palette of 16", "ternary", "binary"):
        yield Row(bits=8, codebook=codebook)


def measure(data: Path, kept: Path) -> list[dict[str, Any]]:
    """Make and judge every row that ``kept`` does not hold yet; it is written row by row."""
    from controller.compress import execute
    from controller.examples.fashion_mnist import train
    from tests.benchmarks.compression import resnet8

    found: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    images, labels = (t.numpy() for t in train.load_split(data, "t10k"))
    known = train.load_split(data, "train")
    calibration = (known[0][:CALIBRATION_IMAGES].numpy(), known[1][:CALIBRATION_IMAGES].numpy())
    context, float_model = _exported(resnet8.trained(), calibration)
    content = float_model.payload.SerializeToString()
    reference = execute.outputs(content, "onnx", images)
    found = found or [_judged("fp32", content, reference, reference, labels)]
    done = {(entry["name"], entry.get("equalized")) for entry in found}
    for row in rows():
        if (row.name, row.equalized) in done:
            continue
        started = time.perf_counter()
        made = _steps(row).run(float_model, context)
        seconds = time.perf_counter() - started
        content = made.payload.SerializeToString()
        answers = execute.outputs(content, "onnx", images)
        entry = _judged(row.name, content, answers, reference, labels)
        entry |= {
            "equalized": row.equalized,
            "bias_corrected": made.evidence[-1].kept,
            "integer_coverage": execute.integer_coverage(content, "onnx"),
            "seconds": round(seconds, 1),
        }
        found.append(entry)
        kept.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _exported(network: Any, calibration: tuple[Array, Array]) -> tuple[Any, Any]:
    """The context of all passes, and the float ONNX model."""
    from controller.catalog.workload import CALIBRATION, Split, Workload
    from controller.compress.base import Candidate, Context, Form
    from controller.compress.passes.export import ExportOnnx
    from controller.compress.passes.fold import FoldBatchNorm
    from controller.compress.recipe import Recipe

    images, labels = calibration
    workload = Workload(name="resnet8", version="1", folder=Path(), input_shape=(1, 28, 28))
    splits = {CALIBRATION: Split(inputs=images, labels=labels)}
    context = Context(workload=workload, splits=splits)
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    return context, recipe.run(Candidate(form=Form.TORCH, payload=network), context)


def _steps(row: Row) -> Any:
    from controller.compress.base import Pass
    from controller.compress.passes.bias_correct import BiasCorrect
    from controller.compress.passes.binary import Binary
    from controller.compress.passes.cluster import Cluster
    from controller.compress.passes.equalize import Equalize
    from controller.compress.passes.quantize_static import QuantizeStatic
    from controller.compress.passes.reconstruct import Reconstruct
    from controller.compress.passes.ternary import Ternary
    from controller.compress.recipe import Recipe

    codebooks: dict[str, Pass] = {
        "palette of 16": Cluster(bits=4),
        "ternary": Ternary(),
        "binary": Binary(),
    }
    steps: list[Pass] = [Equalize()] if row.equalized else []
    steps += [codebooks[row.codebook]] if row.codebook else []
    steps.append(QuantizeStatic(scheme="u8s8", per_channel=row.per_channel))
    if row.rounding:
        steps.append(Reconstruct(bits=row.bits, rounding=row.rounding))
    return Recipe(steps=(*steps, BiasCorrect()))


def _judged(
    name: str, content: bytes, answers: Array, reference: Array, labels: Array
) -> dict[str, Any]:
    """Accuracy with Wilson's interval, and the change with that of the paired difference."""
    from controller.compress import evidence, statistics

    right, was = answers.argmax(1) == labels, reference.argmax(1) == labels
    change = right.astype(float) - was
    low, high = statistics.wilson(int(right.sum()), len(right))
    return {
        "name": name,
        "accuracy": float(right.mean()),
        "interval": [low, high],
        "change": float(change.mean()),
        "change_reach": float(1.96 * change.std() / np.sqrt(len(change))),
        "agreement": evidence.agreement(reference, answers),
        "sqnr_db": evidence.sqnr_db(reference, answers),
        "xz_bytes": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = ("weights", "equalized", "accuracy", "95 %", "against fp32", "agreement", "SQNR", "xz")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in found:
        low, high = entry["interval"]
        noise = entry["sqnr_db"]
        change = f"{100 * entry['change']:+.2f} ± {100 * entry['change_reach']:.2f}"
        cells = (
            entry["name"],
            {True: "yes", False: "no"}.get(entry.get("equalized"), ""),
            f"{100 * entry['accuracy']:.2f} %",
            f"{100 * low:.2f} to {100 * high:.2f}",
            "" if noise is None else change,
            f"{100 * entry['agreement']:.2f} %",
            "" if noise is None else f"{noise:.1f} dB",
            f"{entry['xz_bytes'] / 1000:.1f} kB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Train if need be, measure, write ``few_bits.json`` and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.few_bits")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    arguments = parser.parse_args()
    # Before any library starts its threads.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from tests.benchmarks.compression import resnet8

    if not resnet8.CHECKPOINT.exists():
        resnet8.make(arguments.data, resnet8.CHECKPOINT, resnet8.EPOCHS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(table(measure(arguments.data, arguments.out / "few_bits.json")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
