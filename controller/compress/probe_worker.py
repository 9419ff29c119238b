"""The probe worker: ``python -m controller.compress.probe_worker JOB.json`` makes one probe bundle.

It runs apart from the server, which never loads onnx.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from controller.catalog import process
from controller.compress.probe import build_probe_bundle


def handle(job: Any, _folder: Path, _progress: process.Progress) -> dict[str, Any]:
    """Make the probe bundle of ``job["runtime"]`` below ``job["out"]``."""
    built = build_probe_bundle(job["runtime"], Path(job["out"]))
    return {"ref": built.ref, "archive": str(built.archive_path)}


if __name__ == "__main__":
    raise SystemExit(process.serve(sys.argv, handle))
