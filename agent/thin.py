"""Imports that leave out what nobody asks for: a quarter less for a supervisor that has 20 MiB.

`dataclasses` brings all of ``inspect`` to describe a class without a docstring, protobuf its slow
twin in Python beside the fast one, and `linecache` a tokenizer for sources that are never shown.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any, Final

_DOUBLE: Final = "google.protobuf.internal.python_message"
_COMPILED: Final = "google._upb._message"  # what protobuf works with where it has it


class Later(types.ModuleType):
    """Stands in for a module that is imported when something is first asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks; that is no use
            raise AttributeError(name)
        _forget(self)
        return getattr(importlib.import_module(self.__name__), name)


def load(name: str, *, without: str, **answers: object) -> types.ModuleType:
    """Import ``name``, and what it imports as ``without`` only once it uses it.

    Whoever else imports ``without`` gets the real one. ``answers`` are what ``name`` may use of it
    all the same.
    """
    if name in sys.modules or without in sys.modules:
        return importlib.import_module(name)
    later = sys.modules[without] = Later(without)
    vars(later).update(answers)
    try:
        return importlib.import_module(name)
    finally:
        _forget(later)


def _annotations(owner: type) -> dict[str, Any]:
    """What `dataclasses` asks of ``inspect`` since Python 3.12: those of the class's own body."""
    return dict(owner.__dict__.get("__annotations__", {}))  # noqa: RUF063 - which is left out


def _forget(later: Later) -> None:
    """The next who imports it gets the real one."""
    if sys.modules.get(later.__name__) is later:
        del sys.modules[later.__name__]


def prepare() -> None:
    """Before anything else is imported: the modules below everything."""
    load("linecache", without="tokenize")
    load("dataclasses", without="inspect", get_annotations=_annotations)
    try:
        importlib.import_module(_COMPILED)
    except ImportError:  # this protobuf works in Python
        return
    load("google.protobuf.internal.builder", without=_DOUBLE)
