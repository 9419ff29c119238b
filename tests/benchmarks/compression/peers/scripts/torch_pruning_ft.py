"""Torch-Pruning, fine-tuning on labels for the given CPU seconds, then onnxruntime's int8."""

from __future__ import annotations

import time

import torch
import torch_pruning
from fitting import export, fine_tune
from job import Job, static_int8
from onnxruntime.quantization import QuantType

RATIO, MULTIPLE = 0.5, 8

job = Job("torch-pruning", "torch", "onnxruntime")
inputs = job.calibration()
half = job.out / "pruned.onnx"
with job.point("fp32-pruned50", labels=True, note="magnitude, groups by dependency") as path:
    began = time.process_time()
    network = job.network()
    example = torch.from_numpy(inputs[:2])
    pruner = torch_pruning.pruner.BasePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        round_to=MULTIPLE,
        ignored_layers=[getattr(network, job.facts["head"])],
    )
    pruner.step()
    network.train()
    print(fine_tune(network, job, spent_s=time.process_time() - began))
    torch.save(network.eval(), job.out / "pruned.pt")  # torch_pruning_litert.py goes on from it
    export(network, half, job)
    path.write_bytes(half.read_bytes())
with job.point("int8-pruned50", labels=True, note="u8s8 per channel, from the one above") as path:
    static_int8(
        str(half),
        path,
        inputs,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
