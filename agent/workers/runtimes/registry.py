"""Runtimes by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from agent.workers.child import JobError
from agent.workers.runtimes.base import Runtime

_ADAPTERS: Mapping[str, tuple[str, str, str]] = {
    # name -> (module, class, what to install when it is missing)
    "onnx": ("onnx", "OnnxRuntime", "pip install 'fitment[onnx]'"),
    "litert": (
        "litert",
        "LitertRuntime",
        "pip install 'fitment[litert]' (or 'fitment[tflite]' on a board that has no newer one)",
    ),
    "memory": ("memory", "MemoryRuntime", "pip install numpy"),
}


def names() -> tuple[str, ...]:
    """Names that `get` knows, installed or not."""
    return tuple(_ADAPTERS)


def get(name: str) -> Runtime:
    """The adapter called ``name``.

    Raises:
        JobError: ``runtime_unknown``, or ``runtime_missing`` with what to install.
    """
    if name not in _ADAPTERS:
        raise JobError(
            "runtime_unknown",
            f"this agent has no runtime '{name}', it knows {', '.join(_ADAPTERS)}: "
            "update the agent or choose another variant",
            permanent=True,
        )
    module_name, class_name, install = _ADAPTERS[name]
    try:
        module = importlib.import_module(f"agent.workers.runtimes.{module_name}")
    except ImportError as error:
        raise JobError(
            "runtime_missing",
            f"the runtime '{name}' is not installed on this device ({error}): {install}",
            permanent=True,
        ) from error
    return cast("Runtime", getattr(module, class_name)())
