"""Networks that can do less: the widths of one checkpoint, and an early exit on easy inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from controller.compress import execute
from controller.compress.dynamic import branch
from controller.compress.graph import model as graphs
from controller.compress.latency import summarise
from controller.compress.passes.bias_correct import BiasCorrect
from controller.compress.passes.early_exit import AttachExit, BranchExit
from controller.compress.passes.export import ExportOnnx
from controller.compress.passes.fold import FoldBatchNorm
from controller.compress.passes.quantize_static import QuantizeStatic
from controller.compress.passes.slimmable import WIDTHS, TakeWidth, TrainSlimmable
from controller.compress.recipe import Recipe

EPOCHS = 4
RUNS = 20
LOSSES = (0.0, 0.005, 0.01)
Say = Callable[[str], None]


def slimmable(bench: Any, say: Say) -> dict[str, Any]:
    """Train once; export every width; accuracy, bytes and interleaved latency of each."""
    context = replace(bench.context, memory={})
    train = TrainSlimmable(epochs=EPOCHS, samples=bench.images)
    began = time.process_time()
    trained = train.run(bench.candidate(bench.network), context)
    seconds = time.process_time() - began
    files = {}
    for level, width in enumerate(WIDTHS):
        tail = Recipe(steps=(TakeWidth(level=level), FoldBatchNorm(), ExportOnnx()))
        files[f"{width:g}"] = tail.run(trained, context).payload
    contents = {name: model.SerializeToString() for name, model in files.items()}
    contents["fp32"] = _plain(bench)
    images = _test(bench)
    timed = execute.time_interleaved(
        {name: (content, "onnx") for name, content in contents.items()}, images[:RUNS]
    )
    rows = []
    for name, content in contents.items():
        rows.append(
            {
                "width": name,
                "accuracy": _accuracy(bench, execute.outputs(content, "onnx", images)),
                "file_bytes": len(content),
                "macs": graphs.macs(files[name]) if name in files else None,
                "p50_ms": timed[name].p50_ms,
                "verdict": timed[name].verdict.value,
            }
        )
        say(f"  width {rows[-1]}")
    numbers = dict(trained.evidence[-1].numbers)
    return {"family": train.family, "cpu_seconds": seconds, "numbers": numbers, "widths": rows}


def early_exit(bench: Any, say: Say) -> list[dict[str, Any]]:
    """An exit in the fp32 network and in its int8 file, at several losses on the guard set."""
    context = replace(bench.context, memory={})
    attach = AttachExit(epochs=EPOCHS, samples=bench.images)
    began = time.process_time()
    head = Recipe(steps=(attach, FoldBatchNorm(), ExportOnnx()))
    straight = head.run(bench.candidate(bench.network), context)
    seconds = time.process_time() - began
    base = Recipe(steps=(FoldBatchNorm(), ExportOnnx())).run(
        bench.candidate(bench.network), context
    )
    tails = {
        "fp32": (),
        "int8 u8s8": (QuantizeStatic(scheme="u8s8"), BiasCorrect()),
    }
    found = []
    for name, tail in tails.items():
        start = Recipe(steps=tail).run(straight, context)
        plain = Recipe(steps=tail).run(base, context).payload.SerializeToString()
        for loss_max in LOSSES:
            made = BranchExit(loss_max=loss_max).run(start, context)
            entry = _measured(bench, plain, start.payload, made)
            found.append({"network": name, "loss_max": loss_max, "cpu_seconds": seconds, **entry})
            say(f"  exit {found[-1]}")
    return found


def _measured(bench: Any, plain: bytes, straight: Any, made: Any) -> dict[str, Any]:
    numbers = made.evidence[-1].numbers
    content = made.payload.SerializeToString()
    images = _test(bench)
    early, _ = branch.both_answers(straight, images)
    easy = branch.confidence(early) > numbers["threshold"]
    whole = _accuracy(bench, execute.outputs(plain, "onnx", images))
    return {
        **{key: numbers[key] for key in ("threshold", "guard_exits", "guard_loss", "exit_loss")},
        "accuracy_without_exit": whole,
        "accuracy": _accuracy(bench, execute.outputs(content, "onnx", images)),
        "test_exits": float(easy.mean()),
        "file_bytes": len(content),
        "latency": _latency(plain, content, images, easy),
    }


def _latency(plain: bytes, content: bytes, images: Any, easy: Any) -> dict[str, Any]:
    """Mean over the whole test set, and p50 of easy and hard inputs, interleaved, one thread.

    The mean is of processor time: a mean of wall time would be that of the other programs' turns.
    """
    sessions = {"plain": graphs.session(plain), "exit": graphs.session(content)}
    name = sessions["plain"].get_inputs()[0].name
    feeds = [{name: images[i : i + 1]} for i in range(len(images))]
    taken = {key: np.zeros((2, len(images))) for key in sessions}
    shares: dict[str, list[float]] = {key: [] for key in sessions}
    for session in sessions.values():  # warm-up
        for feed in feeds[:50]:
            session.run(None, feed)
    for block, start in enumerate(range(0, len(images), RUNS)):
        order = list(sessions) if block % 2 == 0 else list(reversed(sessions))
        for key in order:
            shares[key].append(_block(sessions[key], feeds, start, taken[key]))
    found: dict[str, Any] = {}
    for key, (wall, own) in taken.items():
        timing = summarise([int(d) for d in wall], cpu_shares=shares[key], cpu_share_min=0.95)
        found[key] = {
            "mean_cpu_ms": float(own.mean()) / 1e6,
            "p50_easy_ms": float(np.median(wall[easy])) / 1e6 if easy.any() else None,
            "p50_hard_ms": float(np.median(wall[~easy])) / 1e6 if (~easy).any() else None,
            "verdict": timing.verdict.value,
        }
    found["times_as_fast_mean"] = found["plain"]["mean_cpu_ms"] / found["exit"]["mean_cpu_ms"]
    return found


def _block(session: Any, feeds: list[Any], start: int, into: Any) -> float:
    stop = min(start + RUNS, len(feeds))
    for index in range(start, stop):
        before, before_cpu = time.perf_counter_ns(), time.thread_time_ns()
        session.run(None, feeds[index])
        into[1, index] = time.thread_time_ns() - before_cpu
        into[0, index] = time.perf_counter_ns() - before
    wall, own = (float(into[row, start:stop].sum()) for row in range(2))
    return own / wall


def _plain(bench: Any) -> bytes:
    recipe = Recipe(steps=(FoldBatchNorm(), ExportOnnx()))
    made = recipe.run(bench.candidate(bench.network), bench.context)
    content: bytes = made.payload.SerializeToString()
    return content


def _test(bench: Any) -> Any:
    return bench.context.workload.real(bench.context.splits["test"].inputs)


def _accuracy(bench: Any, outputs: Any) -> float:
    labels = bench.context.splits["test"].labels
    return float(bench.context.workload.metric(outputs, labels))
