"""How a quick fit's time grows with the network: ``python -m …growth --work DIR``.

The shipped network with 1, 4 and 16 times the parameters (widths by the square root, so the
multiply-adds grow alike). All are barely trained: the question is of time alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

SIZES = (1, 4, 16)
WIDTH, HEIGHT, EDGE = 520, 340, 56


def main() -> int:
    """Fit what was not fitted yet; write ``growth.json`` and ``growth.svg``, print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.growth")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--inputs", type=int, help="of training, guard and test; all of them")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    found = [_one(work, size, arguments.inputs) for size in arguments.sizes]
    (work / "growth.json").write_text(json.dumps(found, indent=2) + "\n")
    (work / "growth.svg").write_text(svg(found))
    for row in found:
        print(
            f"{row['size']:>3} x: {row['parameters']:>9,} parameters, "
            f"{row['cpu_s']:.0f} CPU s, {row['wall_s']:.0f} s"
        )
    print(f"\nAll of it: {work / 'growth.json'}, {work / 'growth.svg'}")
    return 0


def _one(work: Path, size: int, inputs: int | None) -> dict[str, Any]:
    import numpy as np
    import torch

    from tests.benchmarks.compression import subject as subjects
    from tests.benchmarks.compression.peers import tools

    torch.set_num_threads(1)
    # Its own, even for one time: what another benchmark has cached takes no time.
    of = "" if inputs is None else f"_of_{inputs}"
    recover = {**subjects.RECOVER} if inputs is None else {**subjects.RECOVER, "samples": inputs}
    subject = subjects.prepare(work, f"fashion_x{size}{of}", recover)
    ours = tools.Tool(name=tools.OURS, league=tools.TRAINING)
    record = tools.run(ours, subject, work, lambda text: print(text, file=sys.stderr), None)
    with np.load(subject.torch / "weights.npz", allow_pickle=False) as held:
        learnt = [k for k in held.files if "running" not in k and "num_batches" not in k]
        parameters = sum(int(held[key].size) for key in learnt)
    return {
        "size": size,
        "parameters": parameters,
        "cpu_s": record["cpu_s"],
        "wall_s": record["wall_s"],
        "rungs": {
            p["name"]: {"cpu_s": p["cpu_s"], "wall_s": p["wall_s"]} for p in record["points"]
        },
    }


def svg(found: list[dict[str, Any]]) -> str:
    """CPU seconds over parameters, both logarithmic, with the line of proportional growth."""
    x = _axis([row["parameters"] for row in found], EDGE, WIDTH - 20)
    times = [row["cpu_s"] for row in found]
    straight = [times[0] * row["parameters"] / found[0]["parameters"] for row in found]
    y = _axis([*times, *straight], HEIGHT - EDGE, 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<style>text{font:12px sans-serif}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">parameters</text>',
        _turned("CPU seconds of a quick fit"),
    ]
    for values, colour, dashes in ((straight, "#999", "4 4"), (times, "#1f6f8b", "none")):
        points = " ".join(
            f"{x(row['parameters']):.1f},{y(value):.1f}"
            for row, value in zip(found, values, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
    for row in found:
        at_x, at_y = x(row["parameters"]), y(row["cpu_s"])
        parts.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" fill="#1f6f8b"/>')
        parts.append(f'<text x="{at_x + 7:.1f}" y="{at_y + 14:.1f}">{row["cpu_s"]:.0f} s</text>')
        parts.append(
            f'<text x="{at_x:.1f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">'
            f"{row['parameters']:,}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _turned(words: str) -> str:
    at = f'x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})"'
    return f'<text {at} text-anchor="middle">{words}</text>'


def _axis(values: list[float], low: float, high: float) -> Any:
    """A logarithmic scale from the smallest to the largest value."""
    first, last = math.log(min(values)), math.log(max(values))
    span = (last - first) or 1.0
    return lambda value: low + (high - low) * (0.04 + 0.9 * (math.log(value) - first) / span)


if __name__ == "__main__":
    sys.exit(main())
