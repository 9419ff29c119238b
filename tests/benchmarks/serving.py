"""Serving by the Open Inference Protocol: one by one against batched, its overhead, and swaps.

The load is a stock ``tritonclient`` over the Unix socket. Rounds of what is compared alternate,
and each says how much of the machine others used meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from agent.jobs import RuntimeOptions, ServeJob, ServingOptions
from agent.slots import Slots
from agent.workers import frames, installed
from controller.compress.local import LocalRequest, fit_locally
from controller.examples.fashion_mnist import workload
from fitment.core import digest
from fitment.oip import open_inference_pb2 as pb
from fitment.oip import open_inference_pb2_grpc as pb_grpc
from tests.benchmarks import stock_client

VARIANTS = ("fp32", "int8-u8s8")
P99_LIMIT_MS = 20.0
CALLERS = (1, 4, 16)
ROUNDS, ROUND_S = 5, 2.0
MODES: Mapping[str, Mapping[str, Any]] = {
    "one by one": {"max_batch": 1},
    "batched": {"max_batch": 16, "p99_limit_ms": P99_LIMIT_MS},
}
OTHERS_MAX = 0.05  # of the machine's time; above, a round is contended
SWAP_S, SWAP_EVERY_S, SWAP_CALLERS = 12.0, 0.5, 4
BLOCKS, BLOCK = 30, 25
DENSE = (784, 2048, 2048, 10)
ROWS = (1, 4, 8, 16)
ROOT = Path(__file__).resolve().parent.parent.parent


def measure(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Serve the example's fp32 and int8 variants, made here unless they are there."""
    python = stock_client.made(say)
    made = bundles(out, say)
    work = out / "serving"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    found: dict[str, Any] = {"p99_limit_ms": P99_LIMIT_MS, "variants": {}}
    for name, folder in made.items():
        say(f"serving {name}: throughput")
        throughput = _throughput(work / name, folder, python)
        say(f"serving {name}: overhead")
        overhead = _overhead(work / f"{name}-overhead", folder)
        found["variants"][name] = {
            "throughput": throughput, "overhead": overhead, "a_sample_ms": _a_sample(folder)
        }  # fmt: skip
    folder = dense_bundle(work / "dense-bundle")
    say("serving dense: throughput")
    found["variants"]["dense"] = {
        "throughput": _throughput(work / "dense", folder, python), "overhead": {},
        "a_sample_ms": _a_sample(folder),
    }  # fmt: skip
    say("swaps under load")
    found["swaps"] = _swaps(work / "swaps", made, python)
    found["client"] = found["swaps"].pop("client")
    return found


def bundles(out: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """The example's fp32 and int8 bundles for onnxruntime, by name; fitted when missing."""
    found = _made(out)
    if set(found) != set(VARIANTS):
        request = LocalRequest(
            workload=Path(workload.__file__), profile="generic-x86_64", out=out / "fit"
        )
        fit_locally(request, lambda step, _done: say(f"fit: {step}"))
        found = _made(out)
    return {name: found[name] for name in VARIANTS}


def dense_bundle(folder: Path) -> Path:
    """Wide dense layers of random weights: 24 MB that each run reads, for one sample or many."""
    from onnx import helper, numpy_helper

    from tests.integration import serving_models

    random, nodes, weights, name = np.random.default_rng(0), [], [], "x"
    for number, (width, height) in enumerate(itertools.pairwise(DENSE)):
        values = random.standard_normal((width, height), dtype=np.float32) / width**0.5
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"]))
        name = "y" if number == len(DENSE) - 2 else f"r{number}"
        nodes.append(helper.make_node("Relu", [f"m{number}"], [name]))
    data = serving_models.graph(
        *nodes, inputs=("n", DENSE[0]), outputs=("n", DENSE[-1]), weights=weights
    )
    inputs = random.standard_normal((8, DENSE[0]), dtype=np.float32)
    serving_models.bundle(folder, data, name="dense", inputs=inputs)
    return folder


def litert_bundle(out: Path) -> Path:
    """What the same fit made for LiteRT, in eight bits; after `bundles`."""
    return _made(out, ("int8-s8s8",), "litert")["int8-s8s8"]


def _made(out: Path, names: Sequence[str] = VARIANTS, runtime: str = "onnx") -> dict[str, Path]:
    """The newest bundle of each variant that the fit's cache holds."""
    paths = (out / "fit" / ".work" / "cache").glob("rungs/*/bundle/*/bundle.json")
    found = {}
    for path in sorted(paths, key=lambda item: item.stat().st_mtime):
        manifest = json.loads(path.read_bytes())
        if manifest["name"] in names and manifest["runtime"] == runtime:
            found[manifest["name"]] = path.parent
    return found


@contextlib.contextmanager
def serving_on(folder: Path, bundle: Path, **options: Any) -> Iterator[tuple[Path, int]]:
    """A serving worker; gives the folder of its sockets ``g`` and ``s``, and its process id."""
    folder.mkdir(parents=True)
    job = ServeJob(
        result=str(folder / "r"), folder=str(bundle), socket=str(folder / "s"), name="shoes",
        follow=options.pop("follow", False),
        serving=ServingOptions(grpc_socket=str(folder / "g"), **options),
    )  # fmt: skip
    (folder / "job").write_bytes(digest.canonical(job))
    command = [sys.executable, "-m", "agent.workers.serve", str(folder / "job")]
    process = subprocess.Popen(command, cwd=ROOT)
    while not (folder / "s").exists():
        if process.poll() is not None:
            raise RuntimeError((folder / "r").read_text())
        time.sleep(0.05)
    try:
        yield folder, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _load(python: Path, address: Path, callers: int, seconds: float) -> dict[str, Any]:
    script = Path(__file__).with_name("triton_load.py")
    command = [str(python), str(script), f"unix:{address}", "shoes", str(callers), str(seconds)]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- throughput ---------------------------------------------------------------------------------


def _throughput(folder: Path, bundle: Path, python: Path) -> dict[str, Any]:
    rounds: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        served = {}
        for mode, options in MODES.items():
            place = folder / mode.replace(" ", "-")
            served[mode] = stack.enter_context(serving_on(place, bundle, **options))
        for number in range(ROUNDS):
            for callers in CALLERS:
                modes = list(MODES) if number % 2 else list(reversed(MODES))
                for mode in modes:
                    place, pid = served[mode]
                    taken = _round(python, place / "g", pid, callers)
                    rounds.setdefault((mode, callers), []).append(taken)
    table = [_summary(mode, callers, taken) for (mode, callers), taken in sorted(rounds.items())]
    best = {mode: _best(table, mode) for mode in MODES}
    return {"table": table, "ratios": _ratios(rounds), "best": best, "gain": _gain(best)}


def _round(python: Path, address: Path, pid: int, callers: int) -> dict[str, Any]:
    before = _machine_s(), _process_s(pid), os.times()
    found = _load(python, address, callers, ROUND_S)
    busy, ours = _machine_s() - before[0], _process_s(pid) - before[1]
    after = os.times()
    ours += after.children_user + after.children_system
    ours -= before[2].children_user + before[2].children_system
    whole = (after.elapsed - before[2].elapsed) * (os.cpu_count() or 1)
    return {**found, "others": max(0.0, busy - ours) / whole}


def _summary(mode: str, callers: int, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Percentiles over all rounds; throughput as the median of rounds, with the extremes."""
    ordered = sorted(ns for taken in rounds for ns in taken["latencies_ns"])
    rates = [_rate(taken) for taken in rounds]
    others = statistics.median(taken["others"] for taken in rounds)
    return {
        "mode": mode,
        "callers": callers,
        "requests_s": statistics.median(rates),
        "requests_s_range": [min(rates), max(rates)],
        "p50_ms": ordered[len(ordered) // 2] / 1e6,
        "p99_ms": ordered[int(len(ordered) * 0.99)] / 1e6,
        "requests": len(ordered),
        "failures": sum(len(taken["failures"]) for taken in rounds),
        "samples_a_run": rounds[-1]["samples_a_run"],
        "others_share": others,
        "verdict": "valid" if others <= OTHERS_MAX else "contended",
    }


def _rate(taken: Mapping[str, Any]) -> float:
    return float(len(taken["latencies_ns"]) / taken["seconds"])


def _ratios(rounds: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Batched over one by one, round by round: what both had in common falls out."""
    found = {}
    for callers in CALLERS:
        pairs = zip(rounds["batched", callers], rounds["one by one", callers], strict=True)
        ratios = sorted(_rate(batched) / _rate(one) for batched, one in pairs)
        found[str(callers)] = {
            "median": statistics.median(ratios), "low": ratios[0], "high": ratios[-1],
        }  # fmt: skip
    return found


def _best(table: Sequence[Mapping[str, Any]], mode: str) -> Mapping[str, Any] | None:
    """The highest throughput whose p99 is within the limit; null where there is none."""
    within = [row for row in table if row["mode"] == mode and row["p99_ms"] <= P99_LIMIT_MS]
    return max(within, key=lambda row: row["requests_s"], default=None)


def _gain(best: Mapping[str, Mapping[str, Any] | None]) -> float | None:
    one, batched = best["one by one"], best["batched"]
    return batched["requests_s"] / one["requests_s"] if one and batched else None


def _machine_s() -> float:
    """Seconds that all processors have worked since the start."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, hard, soft, steal = (int(field) for field in fields)
    return (user + nice + system + hard + soft + steal) / os.sysconf("SC_CLK_TCK")


def _process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _a_sample(bundle: Path) -> dict[str, float]:
    """What the runtime alone takes, by samples in a run: more than this no batching can gain."""
    loaded = installed.load(installed.read(bundle), RuntimeOptions())
    shape = installed.goldens(loaded.bundle).inputs.shape[1:]
    found = {}
    for rows in ROWS:
        values = np.random.default_rng(rows).random((rows, *shape), dtype=np.float32)
        run = functools.partial(loaded.session.run, [values])
        found[str(rows)] = min(_block(run) for _ in range(4)) / rows
    return found


# --- overhead -----------------------------------------------------------------------------------


def _overhead(folder: Path, bundle: Path) -> dict[str, Any]:
    """One caller: the model in this process, over frames, and over gRPC; blocks alternate."""
    loaded = installed.load(installed.read(bundle), RuntimeOptions())
    values = installed.goldens(loaded.bundle).inputs[:1]
    with serving_on(folder, bundle) as (place, _pid):
        ways = {
            "in process": lambda: loaded.session.run([values]),
            "frames": _frames(place / "s", values),
            "open inference": _open_inference(place / "g", loaded.session.inputs[0].name, values),
        }
        blocks: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(BLOCKS + 1):
            for name in (*ways, *reversed(list(ways))):
                taken = _block(ways[name])
                if number:  # the first is warm-up
                    blocks[name].append(taken)
    own = statistics.median(blocks["in process"])
    return {
        name: {
            "p50_ms": statistics.median(taken),
            "quarters_ms": statistics.quantiles(taken, n=4)[::2],
            "added_ms": statistics.median(taken) - own,
        }
        for name, taken in blocks.items()
    }


def _block(invoke: Callable[[], object]) -> float:
    durations = []
    for _ in range(BLOCK):
        before = time.perf_counter_ns()
        invoke()
        durations.append(time.perf_counter_ns() - before)
    return statistics.median(durations) / 1e6


def _frames(path: Path, values: np.ndarray) -> Callable[[], object]:
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(path))
    stream: Any = connection.makefile("rwb")

    def invoke() -> object:
        frames.write(stream, {"op": "infer"}, [values])
        return frames.read(stream)

    return invoke


def _open_inference(path: Path, name: str, values: np.ndarray) -> Callable[[], object]:
    stub = pb_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"unix:{path}"))

    def invoke() -> object:
        request = pb.ModelInferRequest(model_name="shoes")
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
        return stub.ModelInfer(request)

    return invoke


# --- swaps --------------------------------------------------------------------------------------


def _swaps(folder: Path, made: Mapping[str, Path], python: Path) -> dict[str, Any]:
    """A slot that switches between the two variants while callers never pause."""
    slots = Slots(folder / "slots")
    slots.prepare("shoes")
    for letter, bundle in zip("ab", made.values(), strict=True):
        shutil.copytree(bundle, slots.folder("shoes", letter))
    slots.switch("shoes", "a")
    with serving_on(folder / "run", slots.link("shoes"), follow=True) as (place, pid):
        still = _round(python, place / "g", pid, SWAP_CALLERS)
        script = subprocess.Popen(
            [sys.executable, "-c", _SWITCHER, str(folder / "slots"), str(SWAP_EVERY_S)], cwd=ROOT
        )
        try:
            found = _load(python, place / "g", SWAP_CALLERS, SWAP_S)
        finally:
            script.terminate()
            script.wait()
    result = json.loads((folder / "run" / "r").read_bytes())
    names = {installed.read(path).variant: name for name, path in made.items()}
    return {
        "client": found["client"],
        "callers": SWAP_CALLERS,
        "swaps": result["swaps"],
        "requests": len(found["latencies_ns"]),
        "failed": len(found["failures"]),
        "by_variant": {names[version]: n for version, n in found["versions"].items()},
        "p99_ms": _p99_ms(found),
        "p99_ms_without_swaps": _p99_ms(still),
        "longest_ms": max(found["latencies_ns"]) / 1e6,
        "serving": asdict(ServingOptions()),
    }


_SWITCHER = """
import sys, time
from pathlib import Path
from agent.slots import Slots
slots = Slots(Path(sys.argv[1]))
while True:
    for letter in "ba":
        slots.switch("shoes", letter)
        time.sleep(float(sys.argv[2]))
"""


def _p99_ms(found: Mapping[str, Any]) -> float:
    ordered = sorted(found["latencies_ns"])
    return float(ordered[int(len(ordered) * 0.99)]) / 1e6
