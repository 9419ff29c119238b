"""Which runtimes are installed, and with which settings: found without importing any.

Names and versions come from the names of the ``*.dist-info`` folders on the import path.
``importlib.metadata`` reads the same folders, at a price of 3.4 MiB of memory that the supervisor
would keep for good.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.jobs import RuntimeOptions

PACKAGES: tuple[tuple[str, str], ...] = (
    ("onnx", "onnxruntime"),
    ("onnx", "onnxruntime_gpu"),
    ("onnx", "onnxruntime_qnn"),
    ("litert", "ai_edge_litert"),
    ("litert", "tflite_runtime"),
)
"""Runtime and the packages that bring it, preferred ones first."""

_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info")


def installed(path: Iterable[str] | None = None) -> Mapping[str, str]:
    """Normalised package name to full version, for the packages in `PACKAGES`.

    ``path`` is a list of folders as in ``sys.path`` (the default); the first hit wins, as it does
    for imports.
    """
    wanted = {package for _, package in PACKAGES}
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        for name in _names(Path(folder or ".")):
            match = _FOLDER.fullmatch(name)
            if match:
                package = re.sub(r"[-_.]+", "_", match["name"]).lower()
                if package in wanted:
                    found.setdefault(package, match["version"])
    return found


def stack(
    options: RuntimeOptions,
    *,
    enabled: tuple[str, ...] | None = None,
    packages: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """``runtime.<name>`` as major.minor, the package that brings it, and settings.

    ``enabled`` limits the runtimes; None allows all. Patch levels are left out, so that a bug fix
    does not start a new fit.
    """
    versions = installed() if packages is None else packages
    facts: dict[str, str] = {}
    for runtime, package in PACKAGES:
        key = f"runtime.{runtime}"
        if package not in versions or key in facts or not _allowed(runtime, enabled):
            continue
        facts[key] = major_minor(versions[package])
        facts[f"{key}.package"] = package.replace("_", "-")
        facts[f"{key}.threads"] = str(options.threads)
    if "runtime.onnx" in facts and options.disabled_optimizers:
        names = sorted(options.disabled_optimizers)
        facts["runtime.onnx.disabled_optimizers"] = ",".join(names)
    return facts


def major_minor(version: str) -> str:
    """``1.32`` of ``1.32.0rc1``; the text as it is when it does not begin with two numbers."""
    found = re.match(r"\d+\.\d+", version)
    return found.group() if found else version


def _allowed(runtime: str, enabled: tuple[str, ...] | None) -> bool:
    return enabled is None or runtime in enabled


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.name.endswith("-info")]
    except OSError:
        return []
