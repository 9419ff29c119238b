"""What goldens cost and what they notice: ``python -m …goldens --fit DIR [--faults 300]``.

DIR is the folder of a finished thorough fit. The bundles of its small variants are built anew, as
fits build them now, and their transfers told beside those that the fit wrote.

A fault is a change of one stored number of an int8 ONNX file: a weight's bit, a whole output
channel of zeros, a scale a quarter too large. It *matters* when more than a half per cent of the
test images get another top-1. Ways to choose goldens are held to the same faults, by the rule of
the agent: an output off by more than the tolerance, or another top-1.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller.compress import bundle, golden
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest

MATTERS, TESTED = 0.005, 2_000
SMALL = 0.05  # of fp32's bytes
VARIANTS = ("int8-u8s8-w2-qat-pruned65-kd", "int8-u8s8-w3-pruned50-kd")
Array = np.ndarray


def main() -> int:
    """Break every variant many times and print who notices."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.goldens")
    parser.add_argument("--fit", type=Path, required=True, help="folder of a thorough fit")
    parser.add_argument("--faults", type=int, default=300, help="for each variant")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    transfers = rebuilt(arguments.fit)
    print(json.dumps(transfers, indent=2), flush=True)
    found: dict[str, Any] = {"transfers": transfers}
    for name in VARIANTS if arguments.faults else ():
        found[name] = measure((arguments.fit / f"{name}.onnx").read_bytes(), arguments.faults)
        print(json.dumps({name: found[name]}, indent=2), flush=True)
    (arguments.fit / "goldens.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0


def rebuilt(fit: Path) -> list[dict[str, Any]]:
    """Transfers of the variants of at most a twentieth of fp32's bytes, before and now."""
    rows = json.loads((fit / "variants.json").read_text())["variants"]
    plainly = next(r for r in rows if (r["name"], r["runtime"]) == ("fp32", "onnx"))
    guard = _guard()
    reference = _answers((fit / plainly["path"]).read_bytes(), "onnx", guard)
    manifests = {
        (m.name, m.runtime): m
        for m in (
            plain.from_plain(BundleManifest, json.loads(path.read_text()))
            for path in fit.glob(f".work/cache/rungs/*/bundle/*/{MANIFEST_NAME}")
        )
    }
    return [
        {
            "name": row["name"],
            "runtime": row["runtime"],
            "before": row["wire_bytes"],
            **_built(
                manifests[row["name"], row["runtime"]],
                (fit / row["path"]).read_bytes(),
                guard,
                reference,
            ),
            "fp32_bytes": plainly["file_bytes"],
        }
        for row in rows
        if row["wire_bytes"] <= SMALL * plainly["file_bytes"]
    ]


def _built(m: BundleManifest, content: bytes, guard: Array, reference: Array) -> dict[str, int]:
    """Bytes of a variant's bundle as it would be built now, in a folder that goes again."""
    outputs = _answers(content, m.runtime, guard)
    chosen = golden.choose(guard, outputs, reference, scheme="int8")
    fed = chosen.inputs if m.runtime == "onnx" else np.moveaxis(chosen.inputs, 1, -1)
    assert m.io is not None
    assert m.golden is not None
    request = bundle.BundleRequest(
        name=m.name, model=m.model, version=m.version, format=m.format, runtime=m.runtime,
        scheme=m.scheme, artifact=content, io=m.io, golden_inputs=np.ascontiguousarray(fed),
        golden_outputs=chosen.outputs, golden_reference=chosen.reference,
        inputs_scale=m.golden.inputs_scale, tolerance=chosen.tolerance, lineage=m.lineage,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        now = bundle.build(request, Path(folder)).wire_bytes
    model = len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    return {"now": now, "model_alone_xz": model, "goldens": len(chosen.inputs)}


def _guard() -> Array:
    from controller.examples.fashion_mnist import workload

    found: Array = workload.data("calibration_b")[0]
    return found


def _answers(file: bytes, runtime: str, stored: Array) -> Array:
    from controller.compress import execute
    from controller.examples.fashion_mnist import workload

    return execute.outputs(
        file, runtime, stored.astype(np.float32) * np.float32(workload.input_scale)
    )


def measure(content: bytes, faults: int) -> dict[str, Any]:
    """Share of faults that each way of choosing notices, of those that matter and of all."""
    import onnx

    from controller.examples.fashion_mnist import workload

    def answers(file: bytes, stored: Array) -> Array:
        return _answers(file, "onnx", stored)

    guard, test = _guard(), workload.data("test")[0][:TESTED]
    given, tested = answers(content, guard), answers(content, test)
    ways, tolerance = _ways(given)
    draw = np.random.default_rng(0)
    noticed: dict[str, list[bool]] = {name: [] for name in ways}
    matter: list[bool] = []
    used = sorted({int(i) for chosen in ways.values() for i in chosen})
    while len(matter) < faults:
        broken = onnx.load_from_string(content)
        if not _break(broken, draw):
            continue
        file = broken.SerializeToString()
        flips = answers(file, test).argmax(axis=1) != tested.argmax(axis=1)
        matter.append(bool(flips.mean() > MATTERS))
        wrong = dict(
            zip(used, _wrong(answers(file, guard[used]), given[used], tolerance), strict=True)
        )
        for name, chosen in ways.items():
            noticed[name].append(any(wrong[int(i)] for i in chosen))
    hit = np.array(matter)
    return {
        "faults": faults,
        "matter": int(hit.sum()),
        "noticed_of_those_that_matter": {
            n: float(np.array(v)[hit].mean()) for n, v in noticed.items()
        },
        "noticed_of_all": {n: float(np.mean(v)) for n, v in noticed.items()},
    }


def _wrong(outputs: Array, recorded: Array, tolerance: float) -> Array:
    off = np.abs(outputs - recorded).max(axis=1) > tolerance
    found: Array = off | (outputs.argmax(axis=1) != recorded.argmax(axis=1))
    return found


def _ways(given: Array) -> tuple[Mapping[str, Array], float]:
    tolerance = float(np.ptp(given)) * golden.INT8_TOLERANCE
    top = np.partition(given, -2, axis=1)
    clear = np.flatnonzero((top[:, -1] - top[:, -2]) > tolerance)
    spread = _spread(given, clear)
    centres = _centres(given, clear)
    ways = {f"first {n}": clear[:n] for n in (16, 10, 8)}
    ways |= {f"spread over answers {n}": spread[:n] for n in (16, 10, 8)}
    ways |= {f"farthest apart {n}": centres[:n] for n in (16, 10)}
    return ways, tolerance


def _spread(given: Array, clear: Array) -> Array:
    answers = given.argmax(axis=1)[clear]
    turn = np.zeros(len(clear), int)
    for answer in np.unique(answers):
        turn[answers == answer] = np.arange(int((answers == answer).sum()))
    return clear[np.argsort(turn, kind="stable")]


def _centres(given: Array, clear: Array) -> Array:
    chosen = [int(clear[0])]
    far = np.full(len(given), np.inf)
    while len(chosen) < 16:
        far = np.minimum(far, ((given - given[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(clear[far[clear].argmax()]))
    return np.array(chosen)


def _break(model: Any, draw: np.random.Generator) -> bool:
    """Change one stored number; False where the drawn place is not fit for it."""
    from onnx import numpy_helper

    tensors = list(model.graph.initializer)
    tensor = tensors[int(draw.integers(len(tensors)))]
    values = numpy_helper.to_array(tensor).copy()
    kinds: list[Callable[[], None]] = []
    if values.dtype == np.int8 and values.ndim >= 2:
        place = tuple(int(draw.integers(n)) for n in values.shape)

        def bit() -> None:
            values.view(np.uint8)[place] ^= np.uint8(0x40)

        def channel() -> None:
            values[place[0]] = 0

        kinds = [bit, channel]
    elif values.dtype == np.float32 and values.size and "scale" in tensor.name:
        flat = values.reshape(-1)
        index = int(draw.integers(flat.size))

        def scale() -> None:
            flat[index] *= np.float32(1.25)

        kinds = [scale]
    if not kinds:
        return False
    kinds[int(draw.integers(len(kinds)))]()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


if __name__ == "__main__":
    sys.exit(main())
