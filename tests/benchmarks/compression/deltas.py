"""Deltas between bundles of the example's network: bytes by each form, time, memory.

    python -m tests.benchmarks.compression.deltas [OUT.json]

zstd with the base as dictionary is measured beside ours where the package ``zstandard`` is
installed; it is no dependency, and null otherwise.
"""

from __future__ import annotations

import copy
import io
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from controller.artifacts import deltas, differ
from controller.compress import bundle, execute
from controller.compress.base import Candidate, Context, Form
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.quantize import ranges, reconstruct, static
from controller.compress.recipe import Recipe
from controller.examples.fashion_mnist import workload as example
from fitment.core import delta
from fitment.core.bundle import IoSpec, TensorSpec
from tests.integration.example_models import fashion_mnist

STEPS, BATCH, RATE = 150, 64, 0.002
PRUNED = 0.5
CALIBRATION = 128


@dataclass(frozen=True, kw_only=True)
class Models:
    """The shipped network and its successors, as ONNX."""

    fp32: onnx.ModelProto
    tuned: onnx.ModelProto
    head: onnx.ModelProto
    pruned: onnx.ModelProto


def measure() -> list[dict[str, Any]]:
    """A row a pair."""
    made = fashion_mnist()
    tuned, head = (_export(_trained(head_only=only)) for only in (False, True))
    models = Models(fp32=made.model, tuned=tuned, head=head, pruned=_prune(made.model))
    first, second = made.calibration[:CALIBRATION], made.calibration[-CALIBRATION:]
    int8 = _int8(models.fp32, first)
    pairs = {
        "int8, other name and version": (int8, int8),
        "int8, recalibrated": (int8, _int8(models.fp32, second)),
        "int8, retrained": (int8, _int8(models.tuned, first)),
        "int8, head retrained": (int8, _int8(models.head, first)),
        "4 bit, half of it pruned": (_w4(models.fp32, first), _w4(models.pruned, first)),
        "fp32, fine-tuned": (models.fp32, models.tuned),
        "fp32, half of it pruned": (models.fp32, models.pruned),
        "int8 after fp32": (models.fp32, int8),
    }
    inputs = made.test[:16]
    return [_row(name, _packed(a, "1", inputs), _packed(b, "2", inputs))
            for name, (a, b) in pairs.items()]  # fmt: skip


def _row(name: str, old: bytes, new: bytes) -> dict[str, Any]:
    base, target = deltas.image(io.BytesIO(old)), deltas.tar(io.BytesIO(new))
    sizes: dict[str, int] = {}
    for form, sections in differ.forms(base, target):
        size = len(differ.pack(base, target, sections))
        sizes[form] = min(size, sizes.get(form, size))
    started = time.perf_counter()
    form, data = differ.make(base, target)
    made_s = time.perf_counter() - started
    started = time.perf_counter()
    applied = b"".join(delta.apply(io.BytesIO(data), lambda at, n: base.data[at : at + n]))
    applied_s = time.perf_counter() - started
    assert applied == target.data
    return {
        "pair": name, "tar": len(target.data), "archive": len(new), **sizes, "smaller": form,
        "share_of_archive": len(data) / len(new), **_zstd(base.data, target.data),
        "make_s": made_s, "apply_s": applied_s, "apply_peak_bytes": _peak(data, base.data),
    }  # fmt: skip


def _peak(data: bytes, base: bytes) -> int:
    """Of Python's own allocations; the decoders' dictionaries come on top, 4 MiB at most each."""
    tracemalloc.start()
    try:
        for _ in delta.apply(io.BytesIO(data), lambda at, n: base[at : at + n]):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _zstd(base: bytes, target: bytes) -> dict[str, int | None]:
    try:
        import zstandard
    except ImportError:
        return {"zstd_19_with_base": None}
    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packer = zstandard.ZstdCompressor(level=19, dict_data=known)
    return {"zstd_19_with_base": len(packer.compress(target))}


def _packed(model: onnx.ModelProto, version: str, inputs: Any) -> bytes:
    """The transport file of a bundle as a fit ships it."""
    artifact = model.SerializeToString()
    outputs = np.asarray(execute.outputs(artifact, "onnx", inputs), np.float32)
    spec = TensorSpec(name=example.input_name, dtype="float32", shape=(-1, *example.input_shape))
    request = bundle.BundleRequest(
        name=f"variant-{version}", model=example.name, version=version, format="onnx",
        runtime="onnx", scheme="u8s8", artifact=artifact, golden_inputs=inputs,
        io=IoSpec(inputs=(spec,), outputs=(replace(spec, name="output", shape=(-1, 10)),)),
        golden_outputs=outputs, golden_reference=outputs, labels=example.labels,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return bundle.build(request, Path(folder)).archive_path.read_bytes()


def _int8(model: onnx.ModelProto, calibration: Any) -> onnx.ModelProto:
    return static.quantize(model, ranges.collect(model, calibration), scheme="u8s8")


def _w4(model: onnx.ModelProto, calibration: Any) -> onnx.ModelProto:
    quantized = _int8(model, calibration)
    return reconstruct.reconstruct(model, quantized, calibration, bits=4).model


def _prune(model: onnx.ModelProto) -> onnx.ModelProto:
    """The smallest half of every layer's weights is zero (by magnitude)."""
    result = copy.deepcopy(model)
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            kept = np.abs(values) > np.quantile(np.abs(values), PRUNED)
            tensor.CopyFrom(numpy_helper.from_array(values * kept, tensor.name))
    return result


def _trained(*, head_only: bool) -> Any:
    """The shipped network after some more steps of SGD."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = example.source()
    parameters = list(network.parameters())
    images, answers = example.data("train")
    order = np.random.default_rng(0).permutation(len(images))[: STEPS * BATCH]
    moved = parameters[-2:] if head_only else parameters
    optimizer = torch.optim.SGD(moved, RATE, momentum=0.9)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = torch.from_numpy(images[chosen].astype(np.float32) * example.input_scale)
        loss = torch.nn.functional.cross_entropy(network(batch), torch.from_numpy(answers[chosen]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def _export(network: Any) -> onnx.ModelProto:
    from controller.catalog import workload
    from tests.integration.example_models import FOLDER

    taken = workload.load(FOLDER)
    context = Context(workload=taken, splits={"calibration_a": taken.data("calibration_a")})
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    payload: onnx.ModelProto = recipe.run(
        Candidate(form=Form.TORCH, payload=network), context
    ).payload
    return payload


def table(rows: list[Mapping[str, Any]]) -> str:
    """For the room's README."""
    lines = [
        "| pair | archive, B | dictionary | difference | share | zstd -19 | make, s | apply, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        zstd = row["zstd_19_with_base"]
        lines.append(
            f"| {row['pair']} | {row['archive']} | {row['dictionary']} | {row['difference']} |"
            f" {row['share_of_archive']:.1%} | {zstd if zstd is not None else 'null'} |"
            f" {row['make_s']:.1f} | {row['apply_s']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; with a path, write all numbers there."""
    rows = measure()
    sys.stdout.write(table(rows) + "\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
