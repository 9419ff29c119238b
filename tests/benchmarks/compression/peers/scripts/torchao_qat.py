"""torchao: quantization-aware training of the whole network (PT2E), then Q/DQ ONNX."""

from __future__ import annotations

import warnings

import torch
from fitting import fine_tune
from job import Job
from torchao.quantization.pt2e import (
    allow_exported_model_train_eval,
    disable_observer,
    move_exported_model_to_eval,
    move_exported_model_to_train,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

FREEZE_AT = 0.8  # of training: ranges stay as they are from there on

job = Job("torchao", "torch", "onnxruntime")
inputs = job.calibration()
batch = torch.export.Dim("batch", min=2, max=4096)
with job.point("qat", labels=True, note="x86 quantizer: u8 activations, s8 per channel") as path:
    example = (torch.from_numpy(inputs[:4]),)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    exported = torch.export.export(job.network(), example, dynamic_shapes=({0: batch},)).module()
    prepared = prepare_qat_pt2e(exported, quantizer)
    move_exported_model_to_train(prepared)
    frozen = []

    def each(share: float) -> None:
        if share >= FREEZE_AT and not frozen:
            prepared.apply(disable_observer)
            frozen.append(share)

    print(fine_tune(prepared, job, learning_rate=0.01, each=each))
    move_exported_model_to_eval(prepared)
    converted = convert_pt2e(prepared)
    allow_exported_model_train_eval(converted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            converted, example, str(path), dynamo=True, dynamic_shapes=({0: batch},),
            input_names=[job.facts["input"]["name"]], output_names=["output"], external_data=False,
        )  # fmt: skip
