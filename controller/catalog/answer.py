"""Ask a workload's source for its outputs, in whichever of the two forms it came.

Heavy imports are late: this runs in worker processes, and the controller never gets here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog.foreign import translated
from controller.catalog.workload import Workload
from controller.errors import WorkloadError

BATCH = 256


def outputs(
    workload: Workload, source: Any, inputs: NDArray[Any], *, threads: int = 1
) -> NDArray[np.float32]:
    """Outputs [N, …] of ``source`` for stored ``inputs``, in batches.

    Raises:
        WorkloadError: the model cannot be loaded or run, or its outputs are not finite.
    """
    answer = _onnx if isinstance(source, Path) else _torch
    found = answer(workload, source, inputs, threads)
    if len(found) != len(inputs):
        raise WorkloadError(
            f"{workload.name}: {len(inputs)} inputs gave outputs of shape {found.shape}; the "
            "first axis of the output must be the batch"
        )
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).any(axis=tuple(range(1, found.ndim))).sum())
        raise WorkloadError(
            f"{workload.name}: the model gives NaN or infinity for {bad} of {len(inputs)} "
            "inputs; check the weights, and that `input_scale` gives what it was trained on"
        )
    return found


def _torch(
    workload: Workload, source: Any, inputs: NDArray[Any], threads: int
) -> NDArray[np.float32]:
    import torch

    torch.set_num_threads(threads)
    parts = []
    with (
        translated(
            WorkloadError,
            f"{workload.name}: running the model failed",
            below=workload.folder,
            mend="it must take a batch of `input_shape` in float32",
        ),  # fmt: skip
        torch.inference_mode(),
    ):
        for start in range(0, len(inputs), BATCH):
            batch = torch.from_numpy(workload.real(inputs[start : start + BATCH]).copy())
            result = source(batch)
            if not isinstance(result, torch.Tensor):
                raise WorkloadError(
                    f"{workload.name}: the model returns a {type(result).__name__}; wrap it so "
                    "that it returns one tensor"
                )
            parts.append(result.numpy().astype(np.float32))
    return np.concatenate(parts)


def _onnx(
    workload: Workload, source: Path, inputs: NDArray[Any], threads: int
) -> NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with translated(
        WorkloadError,
        f"{workload.name}: '{source.name}' is not an ONNX file that onnxruntime can load",
        below=workload.folder,
        mend="export it again, or copy it whole",
    ):
        session = onnxruntime.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"]
        )
    if len(session.get_inputs()) != 1:
        names = ", ".join(i.name for i in session.get_inputs())
        raise WorkloadError(
            f"{workload.name}: '{source.name}' has {len(session.get_inputs())} inputs ({names}); "
            "one is supported"
        )
    entry = session.get_inputs()[0]
    step = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else BATCH
    parts = []
    with translated(
        WorkloadError, f"{workload.name}: running '{source.name}' failed", below=workload.folder,
        mend="it must take a batch of `input_shape` in float32",
    ):  # fmt: skip
        for start in range(0, len(inputs), step):
            batch = workload.real(inputs[start : start + step])
            padded = np.concatenate([batch, np.repeat(batch[-1:], step - len(batch), axis=0)])
            fed = batch if step == BATCH else padded
            parts.append(session.run(None, {entry.name: fed})[0][: len(batch)])
    return np.concatenate(parts).astype(np.float32)
