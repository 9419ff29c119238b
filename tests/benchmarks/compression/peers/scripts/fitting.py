"""Training for the peers that bring none of their own: labels, SGD, one cycle, a CPU budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from job import Job
from torch.nn import functional

BATCH = 64
PROBED = 20  # steps that tell how many fit into the budget


def fine_tune(
    network: Any,
    job: Job,
    *,
    spent_s: float = 0.0,
    learning_rate: float = 0.05,
    each: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Cross entropy on labels, one-cycle SGD, until the CPU seconds are spent.

    The number of steps is set from the time of the first ones, so that the cycle ends in time.
    ``spent_s`` of them went to something else.
    """
    inputs, labels = job.train()
    cpu_seconds = float(job.cpu_seconds or 0.0) - spent_s
    draw = np.random.default_rng(job.seed)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    began, steps, total = time.process_time(), 0, PROBED
    while steps < total:
        if steps == PROBED // 2:
            probed = time.process_time()
        if steps == PROBED - 1:
            each_s = (time.process_time() - probed) / (PROBED // 2 - 1)
            total = max(PROBED, PROBED + int((cpu_seconds - PROBED * each_s) / each_s))
        if each is not None:
            each(steps / total)
        share = max(0.0, steps / total)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _cycle(share if total > PROBED else 0.0)
        chosen = draw.integers(0, len(inputs), BATCH)
        real = torch.from_numpy(job.real(inputs[chosen]))
        loss = functional.cross_entropy(network(real), torch.from_numpy(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return {"steps": steps, "cpu_s": time.process_time() - began, "loss": float(loss.detach())}


def _cycle(share: float) -> float:
    """One cycle (Smith and Topin 2018): up over a fifth, then down as a cosine."""
    if share < 0.2:
        return 0.04 + 0.96 * share / 0.2
    return max(1e-4, 0.5 * (1 + np.cos(np.pi * (share - 0.2) / 0.8)))


def export(network: Any, path: Any, job: Job) -> None:
    """fp32 ONNX with a free batch axis."""
    import warnings

    name = job.facts["input"]["name"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.from_numpy(job.calibration()[:1]),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=[name],
            output_names=["output"],
            dynamic_axes={name: {0: "batch"}, "output": {0: "batch"}},
        )
