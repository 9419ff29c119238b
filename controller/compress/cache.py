"""The fit cache: folders named by the digest of everything that made them.

A folder appears whole or not at all (written beside, then renamed), so a killed worker leaves
nothing half done, and the next one goes on after the last finished rung.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fitment.core import digest

SCHEMA = 1
TOOLS = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "numpy", "fitment")
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Processor flags that `distillation.training` looks for."""


class FitCache:
    """Results below one folder, by kind and key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, kind: str, key: str) -> Path | None:
        """The folder of a finished result, or None."""
        folder = self._folder(kind, key)
        return folder if folder.is_dir() else None

    def put(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder and make it the result. The first one stays."""
        folder = self._folder(kind, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        try:
            write(staged)
            if not folder.is_dir():
                staged.rename(folder)
        except FileExistsError:
            pass
        except OSError:
            if not folder.is_dir():  # else another worker was first, with the same content
                raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return folder

    def _folder(self, kind: str, key: str) -> Path:
        return self._root / kind / digest.hex_of(key)


def fit_key(parts: Mapping[str, Any]) -> str:
    """Digest of what decides a result: source, recipe, target, calibration set, seed, tools."""
    return digest.digest_of({"schema": SCHEMA, **parts})


def tool_versions(
    names: Iterable[str] = TOOLS, *, processor: Path = Path("/proc/cpuinfo")
) -> dict[str, str]:
    """Installed versions of the tools that shape a result; absent ones are left out.

    With ``bfloat16`` where the processor multiplies it, since networks are then trained in it: a
    cache that machines of two kinds share must not give one what the other trained.
    """
    installed = {d.name.lower(): d.version for d in metadata.distributions() if d.name}
    found = {name: installed[name] for name in names if name in installed}
    try:
        words = set(processor.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        words = set()
    if words & BFLOAT16:
        found["bfloat16"] = "native"
    return found
