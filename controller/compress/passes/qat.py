"""Quantization-aware training: the graph that is shipped learns with its own rounding in place.

LSQ (Esser et al. 2020; `qat.lsq`) with a step for each output channel and for each activation,
taught by the user's own fp32 network as in `distil`: soft answers by KL at a temperature, labels
where there are some. It trains the folded ONNX graph and not the module, so that quantizers stand
exactly where the file has them, and an ONNX source can be trained like any other. What it gives is
the int8 file of `quantize_static` with the learned numbers in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.compress.base import (
    TRAINING_THREADS,
    Applied,
    Candidate,
    Context,
    Form,
    Numbers,
    Pass,
    Property,
)
from controller.compress.graph import model as graph_model
from controller.errors import FitError

if TYPE_CHECKING:
    import torch
    from torch import nn

TEACHER_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Qat(Pass):
    """Train with weights of ``bits`` bits for ``epochs`` over at most ``samples`` inputs.

    The first and the last layer keep eight bits. With ``alpha`` = 1, or without class labels, no
    label is read. ``max_seconds`` is a safety net, as in `Distil`.
    """

    name: ClassVar[str] = "qat"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    refuses: ClassVar[frozenset[Property]] = frozenset({Property.STATIC, Property.DYNAMIC})
    ensures: ClassVar[frozenset[Property]] = frozenset({Property.STATIC})

    scheme: str = "u8s8"
    bits: float = 4.0
    epochs: int = 2
    samples: int = 12_000
    batch: int = 64
    learning_rate: float = 0.01
    temperature: float = 4.0
    alpha: float = 0.9
    max_seconds: float = 900.0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.epochs < 1 or self.samples < 1 or self.batch < 1:
            raise FitError(
                f"{self.name}: 2 to 8 bits, and at least one epoch, sample and input a batch are "
                f"needed, not {self.settings}"
            )

    def apply(self, candidate: Candidate, context: Context) -> Applied:
        from controller.compress.qat.network import GraphNet
        from controller.compress.quantize import ranges, reconstruct

        found = ranges.collect(candidate.payload, context.calibration)
        # Their names are those of the normalized graph, which the network holds.
        bare = GraphNet(candidate.payload, found, scheme=self.scheme)
        edges = reconstruct.edges(bare.graph)
        heavy = (n.name for n in bare.graph.graph.node if n.op_type in ("Conv", "Gemm"))
        bits = {name: 8.0 if name in edges else self.bits for name in heavy}
        network = GraphNet(candidate.payload, found, scheme=self.scheme, bits=bits)
        numbers = self.train(network, context)
        made = network.export()
        return Applied(payload=made.quantized, fp32=made.fp32, numbers=numbers)

    def train(self, network: nn.Module, context: Context) -> dict[str, float]:
        """Train ``network`` in place on the training split; also for a control in float."""
        import torch

        from controller.compress.qat.training import Schedule, train

        torch.set_num_threads(TRAINING_THREADS)
        split = context.training
        chosen = np.random.default_rng(context.seed).permutation(len(split))[: self.samples]
        inputs, labels = split.inputs[chosen], split.labels[chosen]
        targets = _teacher_outputs(inputs, context)
        schedule = Schedule(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            alpha=self.alpha,
            seed=context.seed,
            max_seconds=self.max_seconds,
        )
        hard = _class_labels(labels, targets) if self.alpha < 1.0 else None
        return train(network, inputs, (targets, hard), context.workload.real, schedule)

    def check(self, before: Candidate, after: Applied, context: Context) -> Numbers:
        del context
        asked, found = graph_model.macs(before.payload), graph_model.macs(after.payload)
        if asked != found:
            raise FitError(f"the trained model does {found} multiply-adds instead of {asked}")
        return {"macs": found}


def _teacher_outputs(inputs: NDArray[Any], context: Context) -> torch.Tensor:
    """The user's own network's answers [N, …]; computed once for a fit."""
    import torch

    key = f"qat teacher:{context.seed}:{len(inputs)}"
    if key not in context.memory:
        teacher = context.teacher if context.teacher is not None else context.workload.source()
        parts = []
        for start in range(0, len(inputs), TEACHER_BATCH):
            real = context.workload.real(inputs[start : start + TEACHER_BATCH])
            parts.append(_answers(teacher, real))
        context.memory[key] = torch.from_numpy(np.concatenate(parts))
    held: torch.Tensor = context.memory[key]
    return held


def _answers(teacher: Any, real: NDArray[np.float32]) -> NDArray[np.float32]:
    if isinstance(teacher, Path):
        from controller.compress.passes.export import load_onnx
        from controller.compress.quantize import sensitivity

        return np.asarray(sensitivity.answers(load_onnx(teacher), real), np.float32)
    import torch

    with torch.inference_mode():
        return np.array(teacher(torch.from_numpy(real.copy())).numpy(), np.float32)


def _class_labels(labels: NDArray[Any], targets: torch.Tensor) -> torch.Tensor | None:
    """Class numbers, where the outputs are class scores and the labels whole numbers."""
    import torch

    classes = targets.ndim == 2 and targets.shape[1] > 1
    if not (classes and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)):
        return None
    return torch.from_numpy(labels.astype(np.int64))
