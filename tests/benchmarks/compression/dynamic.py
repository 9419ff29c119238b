"""Networks that can do less: the widths of one checkpoint, and an early exit on easy inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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

EPOCHS = 3
NO_LIMIT = 1e6  # seconds, as in `distillation`
RUNS = 20
LOSSES = (0.0, 0.005, 0.01)
Say = Callable[[str], None]


def slimmable(bench: Any, say: Say) -> dict[str, Any]:
    """Train once; export every width; accuracy, bytes and interleaved latency of each."""
    context = replace(bench.context, memory={})
    train = TrainSlimmable(epochs=EPOCHS, samples=bench.images, max_seconds=NO_LIMIT)
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
    attach = AttachExit(epochs=EPOCHS, samples=bench.images, max_seconds=NO_LIMIT)
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
        made = {loss: BranchExit(loss_max=loss).run(start, context) for loss in LOSSES}
        entry = {"network": name, "cpu_seconds": seconds, **_measured(bench, plain, start, made)}
        found.append(entry)
        say(f"  exit {entry}")
    return found


def _measured(bench: Any, plain: bytes, start: Any, made: dict[float, Any]) -> dict[str, Any]:
    """All exits of one network beside the network itself, over the whole test set at once."""
    images = _test(bench)
    early, _ = branch.both_answers(start.payload, images)
    sure = branch.confidence(early)
    contents = {loss: found.payload.SerializeToString() for loss, found in made.items()}
    timed = _timed({"plain": plain, **{str(loss): c for loss, c in contents.items()}}, images)
    rows = []
    for loss, candidate in made.items():
        numbers = candidate.evidence[-1].numbers
        easy = sure > numbers["threshold"]
        row = timed[str(loss)]
        rows.append(
            {
                "loss_max": loss,
                **{key: numbers[key] for key in ("threshold", "guard_exits", "guard_loss")},
                "test_exits": float(easy.mean()),
                "accuracy": _accuracy(bench, row.outputs),
                "file_bytes": len(contents[loss]),
                **row.summary(easy),
                "times_as_fast_mean": float(timed["plain"].own.mean() / row.own.mean()),
            }
        )
    whole = np.ones(len(images), bool)
    return {
        "exit_alone_accuracy": _accuracy(bench, early),
        "plain": {
            "accuracy": _accuracy(bench, timed["plain"].outputs),
            "file_bytes": len(plain),
            **timed["plain"].summary(whole),
        },
        "exits": rows,
    }


@dataclass(slots=True)
class _Timed:
    """Of every test input, one by one: nanoseconds of wall and of processor time, and answers."""

    wall: Any
    own: Any
    outputs: Any
    shares: list[float] = field(default_factory=list)

    def summary(self, easy: Any) -> dict[str, Any]:
        """The mean is of processor time; one of wall time holds the other programs' turns."""
        timing = summarise([int(d) for d in self.wall], cpu_shares=self.shares, cpu_share_min=0.95)
        hard = ~easy
        return {
            "mean_cpu_ms": float(self.own.mean()) / 1e6,
            "p50_easy_ms": float(np.median(self.wall[easy])) / 1e6 if easy.any() else None,
            "p50_hard_ms": float(np.median(self.wall[hard])) / 1e6 if hard.any() else None,
            "verdict": timing.verdict.value,
        }


def _timed(contents: dict[str, bytes], images: Any) -> dict[str, _Timed]:
    """One input a run, one thread, in blocks A B … B A."""
    sessions = {key: graphs.session(content) for key, content in contents.items()}
    name = next(iter(sessions.values())).get_inputs()[0].name
    feeds = [{name: images[i : i + 1]} for i in range(len(images))]
    count = len(images)
    classes = sessions["plain"].run(None, feeds[0])[0].shape[1]
    found = {
        key: _Timed(np.zeros(count), np.zeros(count), np.zeros((count, classes), np.float32))
        for key in sessions
    }
    for session in sessions.values():  # warm-up
        for feed in feeds[:50]:
            session.run(None, feed)
    for block, start in enumerate(range(0, count, RUNS)):
        order = list(sessions) if block % 2 == 0 else list(reversed(sessions))
        for key in order:
            _block(sessions[key], feeds, start, found[key])
    return found


def _block(session: Any, feeds: list[Any], start: int, into: _Timed) -> None:
    stop = min(start + RUNS, len(feeds))
    for index in range(start, stop):
        before, before_cpu = time.perf_counter_ns(), time.thread_time_ns()
        answers = session.run(None, feeds[index])
        into.own[index] = time.thread_time_ns() - before_cpu
        into.wall[index] = time.perf_counter_ns() - before
        into.outputs[index] = answers[0][0]
    into.shares.append(float(into.own[start:stop].sum() / into.wall[start:stop].sum()))


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
