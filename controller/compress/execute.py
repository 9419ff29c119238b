"""Run artifacts on this machine: outputs for evidence, and what really ran in integers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from controller.compress.graph.model import HEAVY
from controller.errors import FitError

_FLOAT32 = 0  # TensorType of the .tflite schema


def outputs(
    artifact: bytes,
    runtime: str,
    inputs: NDArray[np.float32],
    *,
    batch: int = 256,
    threads: int = 1,
) -> NDArray[np.float32]:
    """First output for each input.

    Args:
        artifact: content of the runtime file.
        runtime: "onnx" or "litert".
        inputs: real inputs [N, …] in the source's layout (images channels first).
        batch: inputs in one run, where the file allows it.
        threads: for one operator.

    Raises:
        FitError: an unknown runtime.
    """
    run = _runner(runtime)
    return run(artifact, inputs, batch, threads)


def _runner(runtime: str) -> Callable[[bytes, NDArray[np.float32], int, int], NDArray[np.float32]]:
    runners = {"onnx": _onnx, "litert": _litert}
    if runtime not in runners:
        raise FitError(f"runtime '{runtime}' is not known; use onnx or litert")
    return runners[runtime]


def _session(artifact: bytes, threads: int, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])


def _onnx(
    artifact: bytes, inputs: NDArray[np.float32], batch: int, threads: int
) -> NDArray[np.float32]:
    session = _session(artifact, threads)
    source = session.get_inputs()[0]
    fixed = source.shape[0] if source.shape and isinstance(source.shape[0], int) else batch
    parts = [
        session.run(None, {source.name: inputs[start : start + fixed]})[0]
        for start in range(0, len(inputs), fixed)
    ]
    return np.concatenate(parts).astype(np.float32)


def _litert(
    artifact: bytes, inputs: NDArray[np.float32], batch: int, threads: int
) -> NDArray[np.float32]:
    from ai_edge_litert.interpreter import Interpreter

    del batch  # the files have a batch of one
    interpreter = Interpreter(model_content=artifact, num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for sample in to_layout(inputs, tuple(int(n) for n in source["shape"][1:])):
        interpreter.set_tensor(source["index"], sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"])[0])
    return np.stack(found).astype(np.float32)


def to_layout(inputs: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``inputs`` with axes as the file wants them: images channels last where it does."""
    if inputs.ndim == 4 and inputs.shape[1:] != shape:
        return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
    return inputs


def integer_coverage(artifact: bytes, runtime: str) -> float | None:
    """Share of heavy operators that compute in integers; None where there is no heavy one.

    onnxruntime: counted in its own optimized graph, since Q/DQ around a convolution says nothing
    about the kernel that runs. LiteRT: by the type of the operator's input.
    """
    if runtime == "onnx":
        return _onnx_coverage(artifact)
    return _litert_coverage(artifact)


def _onnx_coverage(artifact: bytes) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        _session(artifact, 1, path)
        kinds = [node.op_type for node in onnx.load(path).graph.node]
    heavy = [HEAVY[kind] for kind in kinds if kind in HEAVY]
    return sum(heavy) / len(heavy) if heavy else None


def _litert_coverage(artifact: bytes) -> float | None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(artifact, 0)
    names = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}
    codes = {getattr(schema.BuiltinOperator, name) for name in names}
    graph = model.subgraphs[0]
    heavy = [
        graph.tensors[op.inputs[0]].type != _FLOAT32
        for op in graph.operators
        if model.operatorCodes[op.opcodeIndex].builtinCode in codes
    ]
    return sum(heavy) / len(heavy) if heavy else None
