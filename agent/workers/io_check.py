"""Whether the loaded model is fed and answers as an application expects.

An application is written for certain shapes, a layout, labels. A model whose shapes happen to fit
but whose labels are in another order would answer, and every answer would be wrong. So an
application may say what it expects, with any request, and is refused where that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.workers.child import JobError
from agent.workers.installed import Loaded
from agent.workers.runtimes.base import Tensor
from fitment.core import digest, plain
from fitment.core.bundle import IoSpec

_SIDES = ("inputs", "outputs")
_KEYS = (*_SIDES, "layout", "labels", "preprocessing")
_TENSOR_KEYS = ("name", "shape")


def describe(loaded: Loaded) -> dict[str, Any]:
    """What the socket takes and gives: real values, whatever type the file has inside.

    ``decision`` is when a detector should raise an alarm, see `fitment.core.bundle.DecisionSpec`;
    it differs from variant to variant, so an application reads it here and keeps none of its own.
    """
    spec = loaded.bundle.manifest.io or IoSpec(inputs=(), outputs=())
    session = loaded.session
    return {
        "inputs": [_tensor(item) for item in session.inputs],
        "outputs": [_tensor(item) for item in session.outputs],
        "layout": spec.layout,
        "labels": list(spec.labels),
        "preprocessing": dict(spec.preprocessing),
        "decision": plain.to_plain(loaded.bundle.manifest.decision),
    }


def require(expects: object, loaded: Loaded) -> None:
    """Hold what an application expects against what is loaded; None expects nothing.

    Raises:
        JobError: ``io_mismatch``, or ``invalid`` when it cannot be read.
    """
    if expects is None:
        return
    wanted = _readable(expects, _KEYS, "'expects'")
    found = describe(loaded)
    problems = []
    for key, value in wanted.items():
        if key in _SIDES:
            problems += _tensors(key, value, found[key])
        elif key == "preprocessing":
            given = _readable(value, None, "'preprocessing'")
            known = found[key]
            problems += [
                _differs(f"preprocessing '{name}'", known.get(name), text)
                for name, text in given.items()
                if known.get(name) != text
            ]
        elif value != found[key]:
            problems.append(_differs(key, found[key], value))
    if problems:
        manifest = loaded.bundle.manifest
        raise JobError(
            "io_mismatch",
            f"variant {digest.short(loaded.bundle.variant)} ({manifest.model} {manifest.version}) "
            f"is not what the application expects: {'; '.join(problems)}; update the application, "
            "or roll out a release that it was written for",
            permanent=True,
        )


def _tensors(side: str, value: object, found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not isinstance(value, list):
        raise JobError("invalid", f"'expects': '{side}' is a list of tensors, not {value!r}")
    if len(value) != len(found):
        return [f"it has {len(found)} {side}, expected {len(value)}"]
    problems = []
    for number, (item, known) in enumerate(zip(value, found, strict=True)):
        wanted = _readable(item, _TENSOR_KEYS, f"'{side}'")
        what = f"{side}[{number}]"
        if wanted.get("name", known["name"]) != known["name"]:
            problems.append(_differs(f"{what} name", known["name"], wanted["name"]))
        if "shape" in wanted and not _same_shape(wanted["shape"], known["shape"]):
            problems.append(_differs(f"{what} shape", known["shape"], wanted["shape"]))
    return problems


def _same_shape(wanted: object, known: Sequence[int]) -> bool:
    """-1 on either side goes with any size."""
    if not isinstance(wanted, list) or len(wanted) != len(known):
        return False
    return all(-1 in (one, other) or one == other for one, other in zip(wanted, known, strict=True))


def _readable(value: object, known: Sequence[str] | None, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise JobError("invalid", f"{what} holds {value!r}; a JSON object is expected")
    unknown = [key for key in value if known is not None and key not in known]
    if unknown:
        raise JobError("invalid", f"{what} has no key '{unknown[0]}'; there are {known}")
    return value


def _differs(what: str, found: object, wanted: object) -> str:
    return f"{what} is {found!r}, expected {wanted!r}"


def _tensor(item: Tensor) -> dict[str, Any]:
    return {"name": item.name, "dtype": "float32", "shape": list(item.shape)}
