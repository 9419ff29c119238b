"""Security workers stay small: none of them loads numpy or a runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORKERS = ("fetch", "verify", "stage", "enroll", "renew", "submit")
HEAVY = ("numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "controller")


def test_no_security_worker_loads_a_heavy_library(root: Path) -> None:
    code = (
        "import sys, importlib\n"
        f"for name in {WORKERS!r}: importlib.import_module('agent.workers.' + name)\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
