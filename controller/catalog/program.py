"""Exported programs (``.pt2``) of strangers, read without running anything that they bring.

`torch.export.load` may execute what a file says: it unpickles weights, constants and example inputs
(falling back to unrestricted pickles), evaluates the text of symbolic sizes, looks up operators
anywhere in Python, and runs guards that are source text. So a file is taken apart first, and only
a copy made of parts that hold none of that is given to torch: plain tensors, whole-number sizes,
``aten`` operators. Heavy imports are late: this runs in worker processes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.catalog.foreign import translated
from controller.errors import WorkloadError

SUFFIX = ".pt2"
_OPERATORS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod|eq|ne|lt|le|gt|ge)"
)
_SIZES = re.compile(
    r"[suz]\d+|\d+|Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv"
    r"|CeilToInt|positive|nonnegative|integer|True|False"
)
_WORDS = re.compile(r"\w+")
_SIGNS = re.compile(r"('[suz]\d+'|[\w\s+\-*/(),<>=])*")
_FILES = re.compile(
    r"models/\w+\.json|data/(weights/weight_\d+|constants/tensor_\d+"
    r"|(weights|constants)/\w+_config\.json|sample_inputs/\w+\.pt)"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment"
)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_MEND = "export the model anew with torch.export.save, without custom objects, or give an ONNX file"


def load(path: Path) -> Any:
    """The `torch.export.ExportedProgram` in a file.

    Raises:
        WorkloadError: it is none, or holds what could run code; the message says what.
    """
    import torch

    content = cleaned(path)
    with translated(WorkloadError, f"{path.name} cannot be loaded", mend=_MEND):
        return torch.export.load(content)


def cleaned(path: Path) -> io.BytesIO:
    """A copy of the archive in which nothing is left that loading could execute.

    Raises:
        WorkloadError: something in it has no place in a plain exported program.
    """
    made = io.BytesIO()
    with (
        translated(WorkloadError, f"{path.name} is no exported program", mend=_MEND),
        zipfile.ZipFile(path) as given,
        zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as copy,
    ):
        for name in given.namelist():
            root, _, inner = name.partition("/")
            if not root or not _FILES.fullmatch(inner):
                raise _refused(path, f"the entry '{name}'")
            content = given.read(name)
            if inner.endswith(".json"):
                content = _plain(path, inner, content)
            elif inner.startswith("data/sample_inputs/"):
                _restricted(path, name, content)
            copy.writestr(name, content)
    made.seek(0)
    return made


def _plain(path: Path, name: str, content: bytes) -> bytes:
    document = json.loads(content)
    for key, value in _entries(document):
        if key == "__enum__":  # torch would import the module that it names
            raise _refused(path, f"a value of a Python class in '{name}'")
        if key in ("in_spec", "out_spec") and not _is_structure(value):
            raise _refused(path, f"the structure '{value}'")
        if key == "use_pickle" and value:
            raise _refused(path, f"pickled tensors in '{name}'")
        if key == "target" and not _OPERATORS.fullmatch(str(value)):
            raise _refused(path, f"the operator '{value}'")
        if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
            raise _refused(path, f"the custom object '{value}'")
        if key == "expr_str" and not _is_size(str(value)):
            raise _refused(path, f"the size '{value}'")
    if "guards_code" in document:
        document["guards_code"] = []  # source text that checks inputs; torch would run it
    return json.dumps(document).encode()


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON document, however deep."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = ((str(number), value) for number, value in enumerate(document))
    for key, value in items:
        yield key, value
        yield from _entries(value)


def _is_structure(text: Any) -> bool:
    """Whether arguments are built of tuples, lists and named dictionaries: JSON within the JSON.

    For any other type torch imports what the text names.
    """
    if not isinstance(text, str) or not text:
        return text in (None, "")
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError):
        return False
    return protocol == 1 and _is_node(tree)


def _is_node(node: Any) -> bool:
    if not isinstance(node, dict) or set(node) != {"type", "context", "children_spec"}:
        return False
    context = node["context"]
    try:
        held = None if context is None else json.loads(context)
    except (ValueError, TypeError):
        return False
    names = isinstance(held, list) and all(isinstance(name, str | int) for name in held)
    plain = names if node["type"] == "builtins.dict" else held is None
    return node["type"] in _CONTAINERS and plain and all(map(_is_node, node["children_spec"]))


def _is_size(text: str) -> bool:
    """Whether a symbolic size is arithmetic over sizes and nothing else: torch evaluates it."""
    words = _WORDS.findall(text)
    return bool(_SIGNS.fullmatch(text)) and all(_SIZES.fullmatch(word) for word in words)


def _restricted(path: Path, name: str, content: bytes) -> None:
    """Example inputs must load without unpickling more than tensors: torch would fall back."""
    import torch

    what = f"{path.name} is refused: the example inputs in '{name}' are more than plain tensors"
    with translated(WorkloadError, what, mend=_MEND):
        torch.load(io.BytesIO(content), weights_only=True)


def _refused(path: Path, what: str) -> WorkloadError:
    return WorkloadError(
        f"{path.name} is refused: loading {what} could run code that came with the file; {_MEND}"
    )
