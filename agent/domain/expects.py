"""What an application expects of a model, held against what the model takes and answers.

An application is written for certain shapes, a layout, labels. A model whose shapes happen to fit
but whose labels are in another order would answer, and every answer would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SIDES = ("inputs", "outputs")
_KEYS = (*_SIDES, "layout", "labels", "preprocessing")
_TENSOR_KEYS = ("name", "shape")


class Unreadable(ValueError):
    """What is expected is not said as it should be."""


def problems(expects: object, found: Mapping[str, Any]) -> list[str]:
    """Where ``found`` is not what is expected; any part of it may be left out.

    Args:
        expects: ``inputs`` and ``outputs`` as lists of ``name`` and ``shape`` (-1: any size),
            ``layout``, ``labels``, ``preprocessing``; None expects nothing.
        found: all of these of the model.

    Raises:
        Unreadable: ``expects`` is something else.
    """
    if expects is None:
        return []
    wanted = readable(expects, _KEYS, "'expects'")
    different = []
    for key, value in wanted.items():
        if key in _SIDES:
            different += _tensors(key, value, found[key])
        elif key == "preprocessing":
            given = readable(value, None, "'preprocessing'")
            known = found[key]
            different += [
                _differs(f"preprocessing '{name}'", known.get(name), text)
                for name, text in given.items()
                if known.get(name) != text
            ]
        elif value != found[key]:
            different.append(_differs(key, found[key], value))
    return different


def readable(value: object, known: Sequence[str] | None, what: str) -> Mapping[str, Any]:
    """A JSON object with no keys but the known ones.

    Raises:
        Unreadable: it is not.
    """
    if not isinstance(value, dict):
        raise Unreadable(f"{what} holds {value!r}; a JSON object is expected")
    unknown = [key for key in value if known is not None and key not in known]
    if unknown:
        raise Unreadable(f"{what} has no key '{unknown[0]}'; there are {known}")
    return value


def _tensors(side: str, value: object, found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not isinstance(value, list):
        raise Unreadable(f"'expects': '{side}' is a list of tensors, not {value!r}")
    if len(value) != len(found):
        return [f"it has {len(found)} {side}, expected {len(value)}"]
    different = []
    for number, (item, known) in enumerate(zip(value, found, strict=True)):
        wanted = readable(item, _TENSOR_KEYS, f"'{side}'")
        what = f"{side}[{number}]"
        if wanted.get("name", known["name"]) != known["name"]:
            different.append(_differs(f"{what} name", known["name"], wanted["name"]))
        if "shape" in wanted and not _same_shape(wanted["shape"], known["shape"]):
            different.append(_differs(f"{what} shape", known["shape"], wanted["shape"]))
    return different


def _same_shape(wanted: object, known: Sequence[int]) -> bool:
    """-1 on either side goes with any size."""
    if not isinstance(wanted, list) or len(wanted) != len(known):
        return False
    return all(-1 in (one, other) or one == other for one, other in zip(wanted, known, strict=True))


def _differs(what: str, found: object, wanted: object) -> str:
    return f"{what} is {found!r}, expected {wanted!r}"
