"""The demonstration's three devices, and what each may run.

All three are separate agent processes on this machine. Two of them stand in for boards: they
take the board's chassis and hardware facts from a recorded tree and say "emulated" wherever
they report.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MODEL = "fashion_mnist"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """One device of the demonstration."""

    name: str
    title: str
    runtimes: tuple[str, ...]
    emulates: str = ""
    sensor_gain: float = 1.0  # its camera is this much brighter (or darker) than the training data


FLEET = (
    DeviceSpec(name="edge-x86", title="edge server, onnxruntime", runtimes=("onnx",)),
    DeviceSpec(
        name="pi5-lab", title="Raspberry Pi 5 class, LiteRT", runtimes=("litert",),
        emulates="raspberry-pi-5",
    ),
    DeviceSpec(
        name="imx93-cam", title="small camera, tight memory and size", runtimes=("onnx",),
        emulates="imx93", sensor_gain=0.35,
    ),
)  # fmt: skip
"""In enrolment order."""

CHANGED = FLEET[0]
"""The device whose runtime is changed in the demonstration's second half."""

FUSION_PASS = "QDQSelectorActionTransformer"
"""onnxruntime's transformer that turns Q/DQ groups into integer kernels."""


def agent_config(spec: DeviceSpec, folder: Path, *, integer_fusions: bool = True) -> str:
    """The agent's ``config.toml``.

    Without ``integer_fusions`` onnxruntime keeps float kernels between Q and DQ, as a build
    without them would: int8 gets several times slower and fp32 stays as it is.
    """
    disabled = [] if integer_fusions else [FUSION_PASS]
    lines = [
        "[agent]",
        f"data_dir = {json.dumps(str(folder))}",
        f"device = {json.dumps(spec.name)}",
        "fingerprint_interval_s = 2.0",
        "",
        "[runtime]",
        f"enabled = {json.dumps(list(spec.runtimes))}",
        "threads = 1",
        f"disabled_optimizers = {json.dumps(disabled)}",
        "",
        "[hardware]",
        f"emulates = {json.dumps(spec.emulates)}",
        "",
        "[samples]",
        f"{MODEL} = {json.dumps(str(folder / 'samples'))}",
        "",
    ]
    return "\n".join(lines)
