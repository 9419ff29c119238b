"""Which order: ``python -m tests.benchmarks.compression.order --work DIR``.

An often recommended order is *quantize, then prune, then distil*. Here it is beside Fitment's
(prune + distil, fold, then quantize) on one network with the same cut, the same steps of the
same distillation, and the same seed. To quantize first means: the weights go onto their grid
and the ranges of activations are found on the whole network, and both stay as they are. Two
readings of it are measured:

- *float*: what follows trains in float, and the first step's ranges are applied at the end;
- *in the loop*: training sees the first step's rounding of weights and activations all along
  (straight-through gradients), the most generous reading.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RATIO, MULTIPLE, SCHEME = 0.5, 8, "u8s8"
OURS, FLOAT, LOOP = "prune, distil, quantize", "quantize, prune, distil (float)", "… (in the loop)"


def main() -> int:
    """Make the three, score them in one run, write ``order.json`` and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compression.order")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--net", choices=("fashion_mnist", "depthwise"), default="fashion_mnist")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    work = arguments.work.absolute()
    found = _measure(work, arguments.net)
    path = work / f"order-{arguments.net}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print("| order | accuracy | against fp32 | xz | p50 | CPU s |\n|---|---|---|---|---|---|")
    for name, s in found["scored"].items():
        low, high = s["change_interval"]
        print(
            f"| {name} | {100 * s['accuracy']:.2f} % "
            f"| {100 * s['change']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) "
            f"| {s['wire_bytes'] / 1000:.0f} kB | {s['latency']['p50_ms']:.3f} ms, "
            f"{s['latency']['verdict']} | {found['cpu_s'].get(name, 0):.0f} |"
        )
    print(f"\nAll of it: {path}")
    return 0


def _measure(work: Path, net: str) -> dict[str, Any]:
    import torch

    from tests.benchmarks.compression import score
    from tests.benchmarks.compression import subject as subjects

    torch.set_num_threads(1)
    subject = subjects.prepare(work, net)
    out = work / "made" / net / "order"
    out.mkdir(parents=True, exist_ok=True)
    record = out / "cpu_s.json"
    taken: dict[str, float] = json.loads(record.read_text()) if record.is_file() else {}
    makers: Mapping[str, Callable[[Any], bytes]] = {
        OURS: ours,
        FLOAT: lambda context: quantize_first(context, in_the_loop=False),
        LOOP: lambda context: quantize_first(context, in_the_loop=True),
    }
    files = {"fp32": score.File(path=subject.peer / "model.onnx", runtime="onnx")}
    for number, (name, make) in enumerate(makers.items()):
        path = out / f"{number}.onnx"
        if name not in taken or not path.is_file():
            print(name, file=sys.stderr, flush=True)
            context = _context(subject)
            began = time.process_time()
            path.write_bytes(make(context))
            taken[name] = time.process_time() - began
            record.write_text(json.dumps(taken, indent=2) + "\n")
        files[name] = score.File(path=path, runtime="onnx")
    test = subject.test()
    scored, right = score.score(
        files, "fp32", test, lambda text: print(text, file=sys.stderr), work / "answers"
    )
    against = {name: score.accuracy(right[name], right[OURS]) for name in makers}
    return {
        "net": net,
        "ratio": RATIO,
        "scheme": SCHEME,
        "cpu_s": taken,
        "scored": scored,
        "against_ours": {
            name: {key: found[key] for key in ("change", "change_interval")}
            for name, found in against.items()
        },
    }


def _context(subject: Any) -> Any:
    from controller.catalog import check
    from controller.catalog import workload as catalog
    from controller.compress.base import Context

    workload = catalog.load(subject.torch)
    source = workload.source()
    return Context(workload=workload, splits=check.load_splits(workload), teacher=source, threads=1)


def _distil(context: Any) -> Any:
    from controller.compress.passes.distil import Distil

    hints = context.workload.recover
    return Distil(
        epochs=int(hints["epochs"]),
        samples=int(hints["samples"]),
        learning_rate=hints["learning_rate"],
    )


def _exported(module: Any, context: Any) -> Any:
    from controller.compress.base import Candidate, Form
    from controller.compress.passes.export import ExportOnnx
    from controller.compress.passes.fold import FoldBatchNorm

    candidate = Candidate(form=Form.TORCH, payload=module)
    for step in (FoldBatchNorm(), ExportOnnx()):
        candidate = step.run(candidate, context)
    return candidate.payload


def ours(context: Any) -> bytes:
    """Prune and distil in float; ranges come from the finished network."""
    from controller.compress.base import Candidate, Form
    from controller.compress.passes.prune_structured import PruneStructured
    from controller.compress.quantize import ranges, static

    candidate = Candidate(form=Form.TORCH, payload=context.teacher)
    candidate = PruneStructured(ratio=RATIO, multiple_of=MULTIPLE).run(candidate, context)
    candidate = _distil(context).run(candidate, context)
    model = _exported(candidate.payload, context)
    found = ranges.collect(model, context.calibration)
    content: bytes = static.quantize(model, found, scheme=SCHEME).SerializeToString(
        deterministic=True
    )
    return content


def quantize_first(context: Any, *, in_the_loop: bool) -> bytes:
    """Grid and ranges of the whole network first; then prune and distil; nothing found anew."""
    import copy

    from controller.compress.base import Candidate, Form
    from controller.compress.quantize import ranges, static

    whole = ranges.collect(_exported(context.teacher, context), context.calibration)
    module = copy.deepcopy(context.teacher).eval()
    seen = _input_ranges(module, context)
    scales = _onto_grid(module)
    _prune(module, scales, context)
    if in_the_loop:
        _wrap(module, scales, seen)
    # `apply`: the module is pruned, but not by a pass that could say so.
    candidate = Candidate(form=Form.TORCH, payload=module)
    module = _distil(context).apply(candidate, context).payload
    if in_the_loop:
        _unwrap(module)
    model = _exported(module, context)
    content: bytes = static.quantize(model, whole, scheme=SCHEME).SerializeToString(
        deterministic=True
    )
    return content


def _heavy(module: Any) -> dict[str, Any]:
    from torch import nn

    return {n: m for n, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def _input_ranges(module: Any, context: Any) -> dict[str, tuple[float, float]]:
    """Least and greatest input of every heavy layer, zero included, over the calibration set."""
    import torch

    seen: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(_layer: Any, arguments: Any) -> None:
            low, high = seen.get(name, (0.0, 0.0))
            values = arguments[0]
            seen[name] = (min(low, float(values.min())), max(high, float(values.max())))

        return hook

    handles = [m.register_forward_pre_hook(watch(n)) for n, m in _heavy(module).items()]
    with torch.inference_mode():
        for part in torch.split(torch.from_numpy(context.calibration.copy()), 64):
            module(part)
    for handle in handles:
        handle.remove()
    return seen


def _onto_grid(module: Any) -> dict[str, Any]:
    """Round weights to int8 by output channel, in place; gives the scales [channels]."""
    import torch

    scales = {}
    for name, layer in _heavy(module).items():
        weight = layer.weight.detach()
        scale = weight.abs().flatten(1).amax(1).clamp_min(1e-12) / 127.0
        shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
        layer.weight = torch.nn.Parameter(torch.round(weight / shaped).clamp(-127, 127) * shaped)
        scales[name] = scale
    return scales


def _prune(module: Any, scales: dict[str, Any], context: Any) -> None:
    """The same cut as Fitment's pass (l1, the same ratio and multiple), on rounded weights."""
    import torch

    from controller.compress.passes.channels import ChannelTracer
    from controller.compress.passes.prune_structured import PruneStructured, importance, remove

    pruning = PruneStructured(ratio=RATIO, multiple_of=MULTIPLE)
    example = torch.from_numpy(context.calibration[:2].copy())
    for space in ChannelTracer(module, example).spaces():
        if not space.producers or space.frozen or pruning.kept(space.size) >= space.size:
            continue
        order = importance(module, space, "l1").argsort(descending=True, stable=True)
        kept = order[: pruning.kept(space.size)].sort().values
        remove(module, space, kept)
        for name in (*space.producers, *space.depthwise):
            scales[name] = scales[name][kept]


def _wrap(module: Any, scales: Mapping[str, Any], seen: Mapping[str, tuple[float, float]]) -> None:
    """Fake-quantize weights (fixed grid) and inputs (fixed ranges), straight-through."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    class Grid(nn.Module):
        def __init__(self, scale: Any, dims: int) -> None:
            super().__init__()
            self.register_buffer("scale", scale.reshape(-1, *[1] * (dims - 1)))

        def forward(self, weight: Any) -> Any:
            rounded = torch.round(weight / self.scale).clamp(-127, 127) * self.scale
            return weight + (rounded - weight).detach()

    for name, layer in _heavy(module).items():
        parametrize.register_parametrization(layer, "weight", Grid(scales[name], layer.weight.ndim))
        layer.register_forward_pre_hook(_Rounded(*seen[name]))


class _Rounded:
    """A hook that rounds a layer's input to 256 levels between ``low`` and ``high``."""

    def __init__(self, low: float, high: float) -> None:
        self.scale = max(high - low, 1e-12) / 255.0
        self.low, self.high = low, high

    def __call__(self, _layer: Any, arguments: Any) -> Any:
        import torch

        clipped = arguments[0].clamp(self.low, self.high)
        rounded = torch.round(clipped / self.scale) * self.scale
        return (clipped + (rounded - clipped).detach(), *arguments[1:])


def _unwrap(module: Any) -> None:
    """Leave the rounded weights; ranges are applied again by the exported file."""
    from torch.nn.utils import parametrize

    for layer in _heavy(module).values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        layer._forward_pre_hooks.clear()


if __name__ == "__main__":
    sys.exit(main())
