"""Ask a workload's source for its outputs, in whichever of the two forms it came.

Heavy imports are late: this runs in worker processes, and the controller never gets here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.catalog import program, samples
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
    if isinstance(source, Path) and source.suffix == program.SUFFIX:
        source = program.load(source).module()
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
            mend="it must take a batch of `input_shape`, in the type that data() gives",
        ),  # fmt: skip
        torch.inference_mode(),
    ):
        for start in range(0, len(inputs), BATCH):
            real = workload.real(inputs[start : start + BATCH])
            if samples.names(real):
                raise WorkloadError(
                    f"{workload.name}: a module of several inputs cannot be trained or pruned "
                    "here; export it to ONNX and give that file"
                )
            batch = torch.from_numpy(real.copy())
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
    entries = session.get_inputs()
    step = samples.run_size(entries, inputs, BATCH)
    parts = []
    with translated(
        WorkloadError, f"{workload.name}: running '{source.name}' failed", below=workload.folder,
        mend="it must take a batch of `input_shape`, in the type that data() gives",
    ):  # fmt: skip
        for start in range(0, len(inputs), step):
            batch = workload.real(inputs[start : start + step])
            padded = np.concatenate([batch, np.repeat(batch[-1:], step - len(batch), axis=0)])
            fed = batch if step == BATCH else padded
            found = session.run(None, samples.feed(entries, fed))[0]
            parts.append(samples.rows(found, len(fed))[: len(batch)])
    return np.concatenate(parts).astype(np.float32)
