"""The chosen variant against fp32 in onnxruntime and against eager PyTorch, interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controller.compress import latency
from controller.compress.local import LocalRequest, fit_locally
from controller.examples.fashion_mnist import workload

ROUNDS, RUNS = 40, 25
CPU_SHARE_MIN = 0.95
PROFILE = "generic-x86_64"
Invoke = Callable[[int], object]


def measure(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Fit the example here, then time what was chosen beside fp32 and eager PyTorch."""
    example = Path(workload.__file__)
    request = LocalRequest(workload=example, profile=PROFILE, out=out / "fit")
    report = fit_locally(request, lambda step, _done: say(f"fit: {step}"))
    by_name = {(v["name"], v["runtime"]): v for v in report["variants"]}
    chosen = next(v for v in report["variants"] if v["chosen"])
    fp32 = by_name["fp32", "onnx"]
    say("timing, interleaved")
    images = workload.data("test")[0][:RUNS] * np.float32(workload.input_scale)
    contenders = {
        "chosen": model_file(out / "fit" / chosen["path"], chosen["runtime"], images),
        "fp32 onnxruntime": model_file(out / "fit" / fp32["path"], "onnx", images),
        "fp32 eager PyTorch": eager(images),
    }
    timed = interleave(contenders)
    for name in ("fp32 onnxruntime", "fp32 eager PyTorch"):
        timed[name]["times_as_long_as_chosen"] = ratio(timed[name], timed["chosen"])
    for entry in timed.values():
        del entry["round_ms"]
    return {
        "profile": PROFILE,
        "variant": chosen["name"],
        "runtime": chosen["runtime"],
        "test_images": len(workload.data("test")[0]),
        "accuracy": chosen["accuracy"],
        "accuracy_interval": chosen["accuracy_interval"],
        "fp32_accuracy": fp32["accuracy"],
        "accuracy_change": chosen["accuracy"] - fp32["accuracy"],
        "file_share_of_fp32": chosen["file_bytes"] / fp32["file_bytes"],
        "wire_share_of_fp32": chosen["wire_bytes"] / fp32["file_bytes"],
        "fit_s": report["seconds"],
        "latency": timed,
    }


def model_file(path: Path, runtime: str, images: np.ndarray) -> Invoke:
    """A file in its runtime; images [N, 1, H, W] float32, one a call."""
    return {"onnx": _onnx, "litert": _litert}[runtime](path, images)


def _litert(path: Path, images: np.ndarray) -> Invoke:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))  # it wants the channel last
    feeds = [last[i : i + 1] for i in range(len(last))]

    def invoke(index: int) -> object:
        interpreter.set_tensor(given["index"], feeds[index])
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    return invoke


def _onnx(path: Path, images: np.ndarray) -> Invoke:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    feeds = [{name: images[i : i + 1]} for i in range(len(images))]
    return lambda index: session.run(None, feeds[index])


def eager(images: np.ndarray) -> Invoke:
    """The example as PyTorch runs it, without a compiler."""
    import torch

    torch.set_num_threads(1)
    network = workload.source()
    feeds = [torch.from_numpy(images[i : i + 1].copy()) for i in range(len(images))]

    def invoke(index: int) -> object:
        with torch.inference_mode():
            return network(feeds[index])

    return invoke


def interleave(contenders: Mapping[str, Invoke]) -> dict[str, dict[str, Any]]:
    """Blocks A B C … C B A, so that a slow change of the machine weighs on all alike."""
    durations: dict[str, list[int]] = {name: [] for name in contenders}
    shares: dict[str, list[float]] = {name: [] for name in contenders}
    for invoke in contenders.values():  # warm-up
        _block(invoke)
    for _ in range(ROUNDS):
        for name in (*contenders, *reversed(list(contenders))):
            taken, share = _block(contenders[name])
            durations[name] += taken
            shares[name].append(share)
    found = {}
    for name, taken in durations.items():
        timing = latency.summarise(taken, cpu_shares=shares[name], cpu_share_min=CPU_SHARE_MIN)
        per_round = [taken[i : i + 2 * RUNS] for i in range(0, len(taken), 2 * RUNS)]
        found[name] = {
            "p50_ms": timing.p50_ms,
            "p95_ms": timing.p95_ms,
            "count": timing.count,
            "verdict": timing.verdict.value,
            "reasons": list(timing.reasons),
            "round_ms": [statistics.median(block) / 1e6 for block in per_round],
        }
    return found


def _block(invoke: Invoke) -> tuple[list[int], float]:
    taken = []
    began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
    for index in range(RUNS):
        before = time.perf_counter_ns()
        invoke(index)
        taken.append(time.perf_counter_ns() - before)
    wall = time.perf_counter_ns() - began
    return taken, (time.thread_time_ns() - began_cpu) / wall


def ratio(slow: Mapping[str, Any], fast: Mapping[str, Any]) -> dict[str, float]:
    """Median and central 90 % over rounds of the ratio of medians."""
    ratios = sorted(a / b for a, b in zip(slow["round_ms"], fast["round_ms"], strict=True))
    low, high = np.quantile(ratios, (0.05, 0.95))
    return {"median": statistics.median(ratios), "low": float(low), "high": float(high)}
