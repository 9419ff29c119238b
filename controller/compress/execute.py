"""Running variants on this machine: their outputs, whether they compute in integers, their time.

What is timed here is the controller's processor, never a device's: it ranks variants for lack of
something better and is recorded as such.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.catalog import samples
from controller.compress import latency
from controller.compress.graph import model as graphs
from controller.compress.graph.model import Inputs
from controller.compress.latency import Timing
from controller.compress.toolchains import litert
from controller.errors import FitError
from fitment.core.bundle import ONNX_DTYPES, IoSpec, TensorSpec

__all__ = ["Timing", "integer_coverage", "io_spec", "outputs", "time_interleaved"]

CPU_SHARE_MIN = 0.9  # as agents ask of their own measurements
_LITERT_HEAVY = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}


class _Runner(Protocol):
    """A loaded variant that takes inputs in the source's layout."""

    def prepare(self, inputs: Inputs) -> Any:
        """Put inputs where `invoke` finds them; not timed."""
        ...

    def invoke(self, prepared: Any) -> NDArray[np.float32]:
        """Run once."""
        ...


def outputs(
    artifact: bytes, runtime: str, inputs: Inputs, *, batch: int = 256, threads: int = 1
) -> NDArray[np.float32]:
    """First output of a variant for all inputs.

    Args:
        artifact: the runtime file.
        runtime: "onnx" or "litert".
        inputs: real inputs [N, …] in the source's layout (NCHW).
        batch: inputs in one run; a file with a fixed first axis gets as many as that says.
        threads: of one operator.

    Raises:
        FitError: unknown runtime, or the runtime refuses the file or the inputs.
    """
    if not len(inputs):
        raise FitError("there are no inputs to run on")
    several = samples.names(inputs)
    size = 1 if several else _fixed_batch(artifact, runtime) or min(batch, len(inputs))
    runner = _open(artifact, runtime, size=size, threads=threads)
    rows = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        missing = size - len(part)
        full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        found = samples.rows(runner.invoke(runner.prepare(full)), len(full))
        rows.append(found[: len(part)].copy())
    return np.concatenate(rows)


def integer_coverage(artifact: bytes, runtime: str) -> float | None:
    """Share of heavy operators that compute in integers, 0..1; None when there are none.

    onnxruntime: in the graph that it made of the file. LiteRT: by the types of input and weights.
    """
    heavy = _onnx_heavy(artifact) if runtime == "onnx" else _litert_heavy(artifact)
    return sum(heavy) / len(heavy) if heavy else None


def io_spec(
    artifact: bytes,
    runtime: str,
    *,
    labels: Sequence[str] = (),
    preprocessing: Mapping[str, str] | None = None,
) -> IoSpec:
    """What an application must feed to a runtime file, read from the file itself."""
    if runtime == "litert":
        interpreter = _interpreter(artifact, threads=1)
        made = [
            tuple(_litert_tensor(item) for item in details)
            for details in (interpreter.get_input_details(), interpreter.get_output_details())
        ]
    else:
        session = graphs.session(artifact)
        made = [
            tuple(_onnx_tensor(item) for item in found)
            for found in (session.get_inputs(), session.get_outputs())
        ]
    image = len(made[0][0].shape) == 4
    layout = ("NHWC" if runtime == "litert" else "NCHW") if image else ""
    return IoSpec(
        inputs=made[0],
        outputs=made[1],
        layout=layout,
        preprocessing=dict(preprocessing or {}),
        labels=tuple(labels),
    )


def time_interleaved(
    entries: Mapping[str, tuple[bytes, str]],
    inputs: Inputs,
    *,
    rounds: int = 8,
    runs: int = 20,
    threads: int = 1,
) -> Mapping[str, Timing]:
    """Time variants against each other, one input a run, in blocks A B … B A.

    Each round is a forward and a backward pass over all entries with ``runs`` runs each, so that
    a slow change of the machine weighs on all alike. A block in which the processor was not ours
    for `CPU_SHARE_MIN` of the time is contended; so is the entry when that is its median.

    Args:
        entries: name -> (runtime file, runtime).
        inputs: real inputs [N, …] in the source's layout; they are fed in turn.
        rounds: of two blocks for each entry.
        runs: in a block.
        threads: of one operator.
    """
    size = 1
    runners = {
        name: _open(artifact, runtime, size=size, threads=threads)
        for name, (artifact, runtime) in entries.items()
    }
    feeds = {
        name: [runner.prepare(inputs[i : i + 1]) for i in range(min(len(inputs), runs))]
        for name, runner in runners.items()
    }
    found = {name: _Series() for name in entries}
    for name, runner in runners.items():
        _block(runner, feeds[name], runs, threads, _Series())  # warm-up
    for _ in range(rounds):
        for name in (*entries, *reversed(list(entries))):
            _block(runners[name], feeds[name], runs, threads, found[name])
    return {
        name: latency.summarise(
            series.durations_ns, cpu_shares=series.cpu_shares, cpu_share_min=CPU_SHARE_MIN
        )
        for name, series in found.items()
    }


@dataclass(slots=True)
class _Series:
    """What one entry's blocks gave."""

    durations_ns: list[int] = field(default_factory=list)
    cpu_shares: list[float] = field(default_factory=list)


def _block(runner: _Runner, feeds: Sequence[Any], runs: int, threads: int, into: _Series) -> None:
    clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    started, started_cpu = time.perf_counter_ns(), clock()
    for index in range(runs):
        feed = feeds[index % len(feeds)]
        before = time.perf_counter_ns()
        runner.invoke(feed)
        into.durations_ns.append(time.perf_counter_ns() - before)
    wall, cpu = time.perf_counter_ns() - started, clock() - started_cpu
    into.cpu_shares.append(cpu / wall if wall else 1.0)


class _OnnxRunner:
    def __init__(self, artifact: bytes, threads: int) -> None:
        self._session = graphs.session(artifact, threads=threads)
        self._entries = self._session.get_inputs()

    def prepare(self, inputs: Inputs) -> Any:
        return samples.feed(self._entries, inputs)

    def invoke(self, prepared: Any) -> NDArray[np.float32]:
        try:
            return np.asarray(self._session.run(None, prepared)[0], np.float32)
        except graphs.refusals() as error:
            raise FitError(f"onnxruntime cannot run the variant: {error}") from error


class _LitertRunner:
    def __init__(self, artifact: bytes, size: int, threads: int) -> None:
        self._interpreter = _interpreter(artifact, threads=threads)
        source = self._interpreter.get_input_details()[0]
        self._dtype = source["dtype"]
        if int(source["shape"][0]) != size:
            self._interpreter.resize_tensor_input(source["index"], [size, *source["shape"][1:]])
        self._interpreter.allocate_tensors()
        self._source = int(source["index"])
        self._target = int(self._interpreter.get_output_details()[0]["index"])

    def prepare(self, inputs: Inputs) -> Any:
        return np.ascontiguousarray(litert.to_layout(inputs), self._dtype)

    def invoke(self, prepared: Any) -> NDArray[np.float32]:
        try:
            self._interpreter.set_tensor(self._source, prepared)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise FitError(f"LiteRT cannot run the variant: {error}") from error
        return np.asarray(self._interpreter.get_tensor(self._target), np.float32)


def _open(artifact: bytes, runtime: str, *, size: int, threads: int) -> _Runner:
    if runtime == "onnx":
        return _OnnxRunner(artifact, threads)
    if runtime == "litert":
        return _LitertRunner(artifact, size, threads)
    raise FitError(f"unknown runtime '{runtime}', known: onnx, litert")


def _interpreter(artifact: bytes, *, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=artifact, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise FitError(f"LiteRT cannot load the variant: {error}") from error
    return interpreter


def _fixed_batch(artifact: bytes, runtime: str) -> int | None:
    """First axis that a file insists on, None when any goes."""
    if runtime == "litert":
        details = _interpreter(artifact, threads=1).get_input_details()[0]
        signature = details["shape_signature"]
        return int(signature[0]) if len(signature) and signature[0] > 0 else None
    first = graphs.session(artifact).get_inputs()[0].shape
    return int(first[0]) if first and isinstance(first[0], int) else None


def _onnx_heavy(artifact: bytes) -> list[bool]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        except graphs.refusals() as error:
            raise FitError(f"onnxruntime cannot load the variant: {error}") from error
        optimized = onnx.load(target)
    found = (node.op_type for node in _nodes(optimized.graph))
    return [graphs.HEAVY[op] for op in found if op in graphs.HEAVY]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of both branches of an ``If`` included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _litert_heavy(artifact: bytes) -> list[bool]:
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    integers = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
    model = schema.ModelT.InitFromPackedBuf(artifact, 0)
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if name in _LITERT_HEAVY:
                types = {graph.tensors[i].type for i in operator.inputs[:2]}
                found.append(types <= integers)
    return found


def _litert_tensor(details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    return TensorSpec(
        name=str(details["name"]),
        dtype=np.dtype(details["dtype"]).name,
        shape=tuple(int(size) for size in details["shape_signature"]),
        scale=float(scale) if scale else None,
        zero_point=int(zero_point) if scale else None,
    )


def _onnx_tensor(item: Any) -> TensorSpec:
    dtype = ONNX_DTYPES.get(item.type, item.type.removeprefix("tensor(").removesuffix(")"))
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
    return TensorSpec(name=item.name, dtype=dtype, shape=shape)
