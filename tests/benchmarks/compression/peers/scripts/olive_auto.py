"""Olive: `olive optimize`, and its static quantization pass on our calibration inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from job import Job

job = Job("olive-ai", "onnxruntime", "onnx")
command = Path(sys.executable).with_name("olive")
DATA = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def subject_dataset(*args, **kwargs):
    inputs = np.load({path!r})["inputs"]
    return [({{{name!r}: row}}, 0) for row in inputs]
"""


def found(folder: Path) -> Path:
    return next(folder.glob("*.onnx"))  # not below: its cache lies there


def workflow(folder: Path, options: dict[str, Any]) -> None:
    from olive import run

    script = job.out / "calibration_data.py"
    script.write_text(
        DATA.format(path=str(job.subject / "calibration.npz"), name=job.facts["input"]["name"])
    )
    data = {
        "name": "calibration",
        "user_script": str(script),
        "load_dataset_config": {"type": "subject_dataset"},
        "dataloader_config": {"batch_size": 1},
    }
    run(
        {
            "input_model": {"type": "OnnxModel", "model_path": job.onnx},
            "data_configs": [data],
            "passes": {
                "tidy": {"type": "OnnxPeepholeOptimizer"},
                "static": {
                    "type": "OnnxStaticQuantization",
                    "data_config": "calibration",
                    **options,
                },
            },
            "output_dir": str(folder),
            "cache_dir": str(folder / "cache"),
        }
    )


with job.point("optimize-int8", note="olive optimize --precision int8, nothing else said") as path:
    target = job.out / "optimize"
    asked = ["optimize", "-m", job.onnx, "--precision", "int8", "-o", str(target)]
    told = subprocess.run(
        [str(command), *asked, "--disable_telemetry"], capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise RuntimeError(told.stderr.strip().splitlines()[-1])
    shutil.copyfile(found(target), path)
with job.point("static-default", note="its static pass, its own defaults") as path:
    workflow(job.out / "static", {})
    shutil.copyfile(found(job.out / "static"), path)
with job.point("static-u8s8", note="its static pass: u8 activations, s8 per channel, QDQ") as path:
    workflow(
        job.out / "u8s8",
        {
            "precision": "int8",
            "activation_type": "uint8",
            "per_channel": True,
            "quant_format": "QDQ",
        },
    )
    shutil.copyfile(found(job.out / "u8s8"), path)
