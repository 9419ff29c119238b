"""onnxruntime, on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from agent.jobs import RuntimeOptions
from agent.workers.runtimes import base
from agent.workers.runtimes.base import Array, Float, Model, Tensor
from fitment.core.bundle import ONNX_DTYPES, IoSpec

_FATAL_ONLY = 4  # onnxruntime's log severity
_PROVIDERS = ["CPUExecutionProvider"]
_REFUSALS = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoaded",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)

HEAVY: Mapping[str, bool] = {
    # operator after optimization -> whether it computes in integers
    "Conv": False,
    "FusedConv": False,
    "NhwcFusedConv": False,
    "ConvTranspose": False,
    "Gemm": False,
    "FusedGemm": False,
    "MatMul": False,
    "FusedMatMul": False,
    "TransposeMatMul": False,
    "MatMulNBits": False,
    "LSTM": False,
    "GRU": False,
    "Attention": False,
    "MultiHeadAttention": False,
    "ConvInteger": True,
    "QLinearConv": True,
    "QLinearConvTranspose": True,
    "QGemm": True,
    "QLinearMatMul": True,
    "MatMulInteger": True,
    "MatMulInteger16": True,
    "MatMulIntegerToFloat": True,
    "DynamicQuantizeMatMul": True,
    "DynamicQuantizeLSTM": True,
    "QAttention": True,
}


class OnnxSession:
    """One ``InferenceSession``: one stream, sequential."""

    coverage_by = ""

    def __init__(self, model: Model, options: RuntimeOptions, io: IoSpec | None) -> None:
        self._model = model
        self._options = options
        self._session = _open(model, options, _session_options(options))
        self.inputs = _tensors(self._session.get_inputs(), io.inputs if io else ())
        self.outputs = _tensors(self._session.get_outputs(), io.outputs if io else ())
        self._names = [tensor.name for tensor in self.inputs]

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def prepare(self, inputs: Sequence[Array]) -> list[Array]:
        pairs = zip(self.inputs, inputs, strict=True)
        return [base.to_native(tensor, values) for tensor, values in pairs]

    def raw(self, feeds: Sequence[Array]) -> list[Array]:
        feed = dict(zip(self._names, feeds, strict=True))
        outputs: list[Array] = self._session.run(None, feed)
        return outputs

    def run(self, inputs: Sequence[Array]) -> list[Float]:
        pairs = zip(self.outputs, self.raw(self.prepare(inputs)), strict=True)
        return [base.to_real(tensor, values) for tensor, values in pairs]

    def integer_coverage(self) -> float | None:
        """From the runtime's own profile of one run, by the operators that really ran.

        A second session does it: profiling slows the one that it watches.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = _session_options(self._options)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = _open(self._model, self._options, options)
            feed = {tensor.name: _zeros(tensor) for tensor in self.inputs}
            session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = (e for e in events if e.get("cat") == "Node")
        ran = [e["args"].get("op_name", "") for e in kernels if e["name"].endswith("_kernel_time")]
        return base.heavy_share(HEAVY, ran)

    def close(self) -> None:
        del self._session


class OnnxRuntime:
    """Loads ``.onnx`` files."""

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def load(
        self, model: Model, options: RuntimeOptions, *, io: IoSpec | None = None
    ) -> OnnxSession:
        return OnnxSession(model, options, io)


def _session_options(options: RuntimeOptions) -> Any:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = 1
    made.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = _FATAL_ONLY
    # Spinning threads would burn the other cores between runs and count as our own contention.
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return made


def _open(model: Model, options: RuntimeOptions, session_options: Any) -> Any:
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(
            source,
            session_options,
            providers=_PROVIDERS,
            disabled_optimizers=list(options.disabled_optimizers) or None,
        )
    except _refusals() as error:
        raise base.load_error(f"onnxruntime {onnxruntime.__version__}", error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file it does not take; these have no common base."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    found = (getattr(state, name, None) for name in _REFUSALS)
    return (RuntimeError, ValueError, *(kind for kind in found if kind is not None))


def _tensors(found: Sequence[Any], io: Sequence[Any]) -> tuple[Tensor, ...]:
    return tuple(
        base.described(
            item.name,
            ONNX_DTYPES.get(item.type, "float32"),
            [size if isinstance(size, int) else -1 for size in item.shape],
            io=io,
        )
        for item in found
    )


def _zeros(tensor: Tensor) -> Array:
    return np.zeros([max(size, 1) for size in tensor.shape], dtype=tensor.dtype)
