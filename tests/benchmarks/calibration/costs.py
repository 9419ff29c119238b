"""What calibrating on the device costs, against quantizing there with the same pictures.

Each is a process of its own, and so is one that only imports its libraries: CPU seconds, the
highest resident memory, and the bytes that the device hands over. The other way round a device
would also need onnx, and the fp32 file, which it otherwise never gets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.jobs import CalibrateJob
from fitment.core import digest
from fitment.core.deployment import CalibrationMode, CalibrationPlan
from tests.benchmarks.calibration.sensors import SENSORS, seen
from tests.benchmarks.calibration.subjects import Subject

COUNT = 256
_LOOK_S = 0.002
_QUANTIZE = """
import sys
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

class Reader(CalibrationDataReader):
    def __init__(self):
        self.rows = iter(np.load(sys.argv[2]))
    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {sys.argv[4]: row[None]}

if len(sys.argv) > 3:
    quantize_static(sys.argv[1], sys.argv[3], Reader(), quant_format=QuantFormat.QDQ,
                    per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8)
"""


def measure(subject: Subject, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Calibrating by each mode, and quantizing, on the same pictures of a darker sensor."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "samples").mkdir(parents=True)
    local = subject.fed(seen(subject.pictures(subject.local[:COUNT]), SENSORS["gain x0.1"], seed=0))
    np.save(work / "samples" / "seen.npy", local)
    (work / "fp32.onnx").write_bytes(subject.fp32)
    (work / "quantize.py").write_text(_QUANTIZE)
    found: dict[str, Any] = {"pictures": COUNT, "fp32_bytes": len(subject.fp32)}
    for mode in (CalibrationMode.INPUT, CalibrationMode.MOMENTS):
        say(f"costs: {mode.value}")
        job = CalibrateJob(
            result=str(work / "result.json"), folder=str(subject.bundle),
            samples=str(work / "samples"), overlay=str(work / f"{mode.value}.json"),
            plan=CalibrationPlan(mode=mode),
        )  # fmt: skip
        (work / "job.json").write_bytes(digest.canonical(job))
        command = ["-m", "agent.workers.calibrate", str(work / "job.json")]
        found[mode.value] = _run(command, Path(job.overlay))
    say("costs: quantizing")
    made = work / "int8.onnx"
    command = [str(work / n) for n in ("quantize.py", "fp32.onnx", "samples/seen.npy")]
    name = _input_name(subject)
    found["quantize_static"] = _run([*command, str(made), name], made)
    found["its_imports"] = _run([str(work / "quantize.py"), "", ""], None)
    imports = "import agent.workers.calibrate, agent.workers.runtimes.onnx"
    found["our_imports"] = _run(["-c", imports], None)
    return found


def _input_name(subject: Subject) -> str:
    from agent.jobs import RuntimeOptions
    from agent.workers.runtimes import registry

    return registry.get("onnx").load(subject.fp32, RuntimeOptions()).inputs[0].name


def _run(arguments: Sequence[str], made: Path | None) -> dict[str, Any]:
    """CPU and wall seconds, peak memory and bytes made, of one Python process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    peak = 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, _resident_peak(process.pid))
        time.sleep(_LOOK_S)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or (made is not None and not made.exists()):
        raise RuntimeError(f"{arguments} ended with {process.returncode} and made nothing")
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peak,
        "made_bytes": made.stat().st_size if made is not None else 0,
    }


def _resident_peak(pid: int) -> int:
    """The highest so far; what ``wait4`` tells is never less than the parent's own."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)
