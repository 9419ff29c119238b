"""What every peer's script shares: the job, the data, and the record of each file it made.

Runs in the peer's own environment, so it needs numpy and the standard library alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


class Job:
    """``python SCRIPT.py JOB.json``: reads the subject's files, writes models and their record."""

    def __init__(self, *distributions: str) -> None:
        asked = json.loads(Path(sys.argv[1]).read_text())
        self.subject, self.out = Path(asked["subject"]), Path(asked["out"])
        self.cpu_seconds: float | None = asked.get("cpu_seconds")
        self.seed: int = asked.get("seed", 0)
        self.onnx = str(self.subject / "model.onnx")
        self.facts = json.loads((self.subject / "subject.json").read_text())
        self._points: list[dict[str, Any]] = []
        self._failed: dict[str, str] = {}
        self._versions = {name: metadata.version(name) for name in distributions}

    @contextlib.contextmanager
    def point(
        self, name: str, *, labels: bool = False, runtime: str = "onnx", note: str = ""
    ) -> Iterator[Path]:
        """Time one point; the body writes the file. A failure is recorded, and the rest goes on."""
        path = self.out / f"{name}.{'tflite' if runtime == 'litert' else 'onnx'}"
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield path
        except Exception as error:  # noqa: BLE001 - a peer may raise anything; it is its result
            self._failed[name] = f"{type(error).__name__}: {str(error)[:400]}"
            traceback.print_exc()
        else:
            self._points.append(
                {
                    "name": name,
                    "file": path.name,
                    "runtime": runtime,
                    "labels": labels,
                    "note": note,
                    "wall_s": time.perf_counter() - wall,
                    "cpu_s": time.process_time() - cpu,
                }
            )
        record = {"points": self._points, "failed": self._failed, "versions": self._versions}
        (self.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")

    def calibration(self) -> Array:
        """Inputs [N, …] as the network takes them, no labels."""
        with np.load(self.subject / "calibration.npz", allow_pickle=False) as held:
            return held["inputs"]

    def guard(self) -> tuple[Array, Array]:
        """Held-out inputs and labels: for what asks for a validation set."""
        with np.load(self.subject / "guard.npz", allow_pickle=False) as held:
            return held["inputs"], held["labels"]

    def train(self) -> tuple[Array, Array]:
        """Training inputs as stored (see `real`) and labels."""
        with np.load(self.subject / "train.npz", allow_pickle=False) as held:
            return held["inputs"], held["labels"]

    def real(self, stored: Array) -> Array:
        """Stored inputs as the network takes them; tokens keep their values."""
        kind, scale = self.facts["input"]["dtype"], np.float32(self.facts["input"]["scale"])
        return stored.astype(kind) if kind != "float32" else stored.astype(kind) * scale

    @property
    def images(self) -> bool:
        """Whether an input is [C, H, W]."""
        return len(self.facts["input"]["shape"]) == 3

    def network(self) -> Any:
        """The trained torch module, in eval mode."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        path = self.subject / "network.py"
        spec = importlib.util.spec_from_file_location("subject_network", path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules["subject_network"] = module
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        network = getattr(module, self.facts["network"])(*self.facts["arguments"])
        with np.load(self.subject / "weights.npz", allow_pickle=False) as held:
            network.load_state_dict({key: torch.from_numpy(held[key]) for key in held.files})
        return network.eval()


class Reader:
    """Calibration inputs as onnxruntime's quantizer wants them."""

    def __init__(self, inputs: Array, name: str, batch: int = 1) -> None:
        self._rows = [{name: inputs[i : i + batch]} for i in range(0, len(inputs), batch)]
        self._left = iter(self._rows)

    def get_next(self) -> Any:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left = iter(self._rows)


def static_int8(source: str, target: Path, inputs: Array, **options: Any) -> None:
    """onnxruntime's static quantization after its own preparation of the graph."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Rows(Reader, CalibrationDataReader):
        pass

    prepared = str(target.with_suffix(".prepared"))
    quant_pre_process(source, prepared)
    quantize_static(prepared, str(target), Rows(inputs, input_name(source)), **options)
    Path(prepared).unlink()


def input_name(path: str) -> str:
    """The one input of an ONNX file."""
    import onnx

    return str(onnx.load(path).graph.input[0].name)
