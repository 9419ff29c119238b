"""One harness for everybody's files: accuracy, bytes, memory, and latency in one interleaved run.

Test labels are used here alone. Latency is wall time of one input on one thread; what a file's
own input and output types ask for (int8, channels last) is done outside of the timed call.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controller.compress import execute
from controller.compress.statistics import Z95, wilson
from controller.errors import FitError
from fitment.core.bundle import ONNX_DTYPES
from tests.benchmarks import variants
from tests.benchmarks.compression.peers.envs import quiet_environment

MEMORY = Path(__file__).parent / "memory.py"
MEMORY_RUNS = 2
BATCH = 100
Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One runtime file to be scored."""

    path: Path
    runtime: str  # "onnx", "litert"


class Runner:
    """A loaded file: `feed` prepares one real input [1, …], `invoke` runs it."""

    def __init__(self, file: File) -> None:
        self._open = _Onnx(file.path) if file.runtime == "onnx" else _Litert(file.path)

    def answers(self, inputs: Array) -> Array:
        """Outputs [N, classes] float32; many at once where the file's batch axis is free."""
        rows, size = [], BATCH if self._open.free else 1
        for start in range(0, len(inputs), size):
            feed = self._open.feed(inputs[start : start + size])
            rows.append(self._open.answer(self._open.invoke(feed)))
        return np.concatenate(rows)

    def contender(self, inputs: Array) -> Callable[[int], object]:
        """For the interleaved run: runs the input of a number."""
        feeds = [self._open.feed(inputs[i : i + 1]) for i in range(len(inputs))]
        invoke = self._open.invoke
        return lambda index: invoke(feeds[index])


class _Onnx:
    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        source = self._session.get_inputs()[0]
        self._name, self.free = source.name, not isinstance(source.shape[0], int)
        self._kind = ONNX_DTYPES[source.type]

    def feed(self, image: Array) -> Any:
        return {self._name: np.ascontiguousarray(image, self._kind)}

    def invoke(self, feed: Any) -> Any:
        return self._session.run(None, feed)[0]

    def answer(self, raw: Any) -> Array:
        return np.asarray(raw, np.float32)


class _Litert:
    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._source = self._interpreter.get_input_details()[0]
        self._target = self._interpreter.get_output_details()[0]
        self.free = int(self._source["shape_signature"][0]) < 0
        self._size = int(self._source["shape"][0])

    def feed(self, image: Array) -> Any:
        shape = tuple(int(n) for n in self._source["shape"][1:])
        laid = image if image.shape[1:] == shape else np.moveaxis(image, 1, -1)
        if self._source["dtype"] == np.float32 or image.dtype.kind == "i":  # tokens have no scale
            return np.ascontiguousarray(laid, self._source["dtype"])
        scale, zero = self._source["quantization"]
        limits = np.iinfo(self._source["dtype"])
        stored = np.clip(np.rint(laid / scale + zero), limits.min, limits.max)
        return np.ascontiguousarray(stored, self._source["dtype"])

    def invoke(self, feed: Any) -> Any:
        if len(feed) != self._size:
            self._interpreter.resize_tensor_input(self._source["index"], feed.shape)
            self._interpreter.allocate_tensors()
            self._size = len(feed)
        self._interpreter.set_tensor(self._source["index"], feed)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._target["index"])

    def answer(self, raw: Any) -> Array:
        if self._target["dtype"] == np.float32:
            return np.asarray(raw, np.float32).copy()
        scale, zero = self._target["quantization"]
        return (np.asarray(raw, np.float32) - zero) * np.float32(scale)


def score(
    files: Mapping[str, File],
    fp32: str,
    test: tuple[Array, Array],
    say: Callable[[str], None],
    cache: Path | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Array]]:
    """Measure all files; ``fp32`` names the one that the others are compared with.

    Gives the figures, and which test inputs each file answers rightly, [N] bool.

    Args:
        files: by name.
        fp32: name of the reference.
        test: inputs [N, …] as the network takes them, and labels [N].
        say: progress.
        cache: folder that keeps what a file answers, so that a run goes on where it was.
    """
    inputs, labels = test
    runners = {name: Runner(file) for name, file in files.items()}
    right: dict[str, Array] = {}
    for name, runner in runners.items():
        say(f"accuracy: {name}")
        right[name] = _kept(cache, files[name], lambda r=runner: r.answers(inputs)) == labels
    say(f"latency: {len(files)} files, interleaved")
    feeds = inputs[: variants.RUNS]
    timed = variants.interleave({n: r.contender(feeds) for n, r in runners.items()})
    found = {}
    for name, file in files.items():
        entry = timed[name]
        rounds = entry.pop("round_ms")
        found[name] = {
            **accuracy(right[name], right[fp32]),
            **sizes(file),
            "memory_bytes": memory(file, cache),
            "latency": entry,
            "round_ms": rounds,
        }
    for name, entry in found.items():
        entry["times_fp32"] = variants.ratio(
            {"round_ms": found[fp32]["round_ms"]}, {"round_ms": entry["round_ms"]}
        )
        say(f"scored: {name}")
    for entry in found.values():
        del entry["round_ms"]
    return found, right


def _kept(cache: Path | None, file: File, answers: Callable[[], Array]) -> Array:
    """The class [N] that a file gives to every test input; run once for the same bytes."""
    held = hashlib.sha256(file.path.read_bytes()).hexdigest()
    path = None if cache is None else cache / f"{held}.npy"
    if path is not None and path.is_file():
        return np.load(path, allow_pickle=False)
    found = answers().argmax(axis=1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found, allow_pickle=False)
    return found


def accuracy(right: Array, reference: Array) -> dict[str, Any]:
    """Share of right answers (Wilson 1927, 95 %), and the paired change against fp32.

    The change's interval is Wald's for paired shares: with b gained and c lost of n,
    ((b − c) ± 1.96·√(b + c − (b − c)²/n)) / n.
    """
    count = len(right)
    gained = int((right & ~reference).sum())
    lost = int((~right & reference).sum())
    reach = Z95 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / count)) / count
    change = (gained - lost) / count
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson(int(right.sum()), count),
        "change": change,
        "change_interval": (change - reach, change + reach),
        "test_inputs": count,
    }


def sizes(file: File) -> dict[str, Any]:
    """File bytes, bytes after xz, and the share of heavy operators in integers."""
    content = file.path.read_bytes()
    packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    try:
        coverage = execute.integer_coverage(content, file.runtime)
    except FitError:
        coverage = None
    return {"file_bytes": len(content), "wire_bytes": len(packed), "integer_coverage": coverage}


def memory(file: File, cache: Path | None = None) -> int | None:
    """Least of some runs of what `memory.py` finds; null where it fails."""
    held = hashlib.sha256(file.path.read_bytes()).hexdigest()
    path = None if cache is None else cache / f"{held}.memory.json"
    if path is not None and path.is_file():
        return min(json.loads(path.read_text()))
    taken = []
    for _ in range(MEMORY_RUNS):
        answer = subprocess.run(
            [sys.executable, str(MEMORY), str(file.path), file.runtime],
            capture_output=True,
            text=True,
            env=quiet_environment(),
            check=False,
        )
        if answer.returncode:
            return None
        taken.append(int(answer.stdout))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(taken))
    return min(taken)
