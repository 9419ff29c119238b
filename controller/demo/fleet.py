"""The demo's fleet: three devices that differ in what they can run, and the change to one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORKLOAD = "fashion_mnist"
SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """One agent of the demo."""

    name: str
    profile: str  # that it should be matched to
    runtimes: tuple[str, ...]  # what its agent may use
    emulates: str = ""  # the board that this machine stands in for
    memory_bytes: int | None = None  # limit of its workers that load a model
    gain: float | None = None  # of its sensor; None: as in training


SERVER = DeviceSpec(name="edge-x86", profile="generic-x86_64", runtimes=("onnx",))
PI = DeviceSpec(
    name="pi5-lab", profile="raspberry-pi-5", runtimes=("litert",), emulates="raspberry-pi-5"
)
CAMERA = DeviceSpec(
    name="imx93-cam", profile="imx93", runtimes=("onnx",), emulates="imx93",
    memory_bytes=192 * 1024 * 1024, gain=0.35,
)  # fmt: skip
FLEET = (SERVER, PI, CAMERA)

CHANGED = SERVER
INTEGER_FUSION = "QDQSelectorActionTransformer"
"""The optimizer of onnxruntime that turns Q/DQ pairs into integer kernels."""


def agent_config(
    spec: DeviceSpec, *, samples: Path | None = None, disabled_optimizers: Sequence[str] = ()
) -> str:
    """The ``config.toml`` of one device; a JSON string is a TOML string."""
    lines = ["[agent]", "fingerprint_interval_s = 1.0"]
    if spec.memory_bytes is not None:
        lines.append(f"memory_bytes = {spec.memory_bytes}")
    lines += ["", "[runtime]", f"enabled = {json.dumps(list(spec.runtimes))}"]
    if disabled_optimizers:
        lines.append(f"disabled_optimizers = {json.dumps(list(disabled_optimizers))}")
    if spec.emulates:
        lines += ["", "[hardware]", f"emulates = {json.dumps(spec.emulates)}"]
    if samples is not None:
        lines += ["", "[samples]", f"{WORKLOAD} = {json.dumps(str(samples))}"]
    return "\n".join(lines) + "\n"
