"""``python memory.py FILE RUNTIME``: bytes by which loading and running one file grows a process.

Peak resident set after loading and ten runs, over the resident set once the runtime is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 10
KINDS = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def main() -> int:
    """Print one number."""
    path, runtime = sys.argv[1], sys.argv[2]
    load: Any = _onnx if runtime == "onnx" else _litert
    __import__("onnxruntime" if runtime == "onnx" else "ai_edge_litert.interpreter")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run = load(path)
    for _ in range(RUNS):
        run()
    print(_status("VmHWM") - before)
    return 0


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {key}")


def _onnx(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else 1 for n in source.shape]
    feed = {source.name: np.zeros(shape, KINDS[source.type])}
    return lambda: session.run(None, feed)


def _litert(path: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter.invoke


if __name__ == "__main__":
    sys.exit(main())
