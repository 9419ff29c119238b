"""What can be asked of a device when devices are chosen, and how its answers compare."""

from __future__ import annotations

import datetime as dt
import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from controller.domain.fleet import Device
from controller.errors import UserError
from fitment.core.deployment import SlotReport
from fitment.core.fingerprint import Facet, Fingerprint

Value = str | float | bool
Reader = Callable[[Device], Sequence[Value]]
"""What a device says to one fact; nothing where it is not known, several for several slots."""


def _slots(device: Device) -> Sequence[SlotReport]:
    return device.reported.slots if device.reported is not None else ()


def _holding(device: Device) -> list[SlotReport]:
    return [slot for slot in _slots(device) if slot.variant]


def _healthy(device: Device) -> bool:
    """It has reported, and every model that it holds serves and answers its golden inputs."""
    held = _holding(device)
    return device.reported is not None and all(s.serving and s.golden_ok is not False for s in held)


def _some(value: str) -> Sequence[Value]:
    return (value,) if value else ()


def moment(at_s: float) -> str:
    """A moment as expressions have it; texts of moments are in the order of time."""
    return dt.datetime.fromtimestamp(max(at_s, 0.0), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


PLAIN: Final[Mapping[str, Reader]] = {
    "name": lambda d: (d.name,),
    "profile": lambda d: _some(d.profile),
    "cohort": lambda d: _some(d.cohort.key if d.cohort else ""),
    "last_seen": lambda d: (moment(d.last_seen),) if d.last_seen else (),
    "enrolled": lambda d: (moment(d.enrolled_at),),
    "online": lambda d: (d.online,),
    "reported": lambda d: (d.reported is not None,),
    "emulated": lambda d: (d.reported is not None and d.reported.fingerprint.emulated,),
    "agent": lambda d: _some(d.reported.agent_version if d.reported else ""),
    "time_zone": lambda d: _some(
        d.labels.get("time_zone") or (d.reported.time_zone if d.reported else "")
    ),
    "understands": lambda d: d.reported.understands if d.reported else (),
    "quarantined": lambda d: (bool(d.reported.quarantined) if d.reported else False,),
    "healthy": lambda d: (_healthy(d),),
    "degraded": lambda d: (any(slot.rung for slot in _slots(d)),),
    "release": lambda d: tuple(dict.fromkeys(s.release for s in _holding(d) if s.release)),
    "variant": lambda d: tuple(v for s in _holding(d) for v in (s.name, s.variant) if v),
}
"""Facts without a key. ``release`` and ``variant`` are those of all slots."""

FACETS: Final[Mapping[str, Callable[[Fingerprint], Facet]]] = {
    "hardware": lambda seen: seen.hardware,
    "stack": lambda seen: seen.stack,
    "condition": lambda seen: seen.condition,
    "chassis": lambda seen: seen.chassis,
}
"""Parts of the fingerprint; ``stack.hash`` and ``hardware.hash`` are their hashes."""

SLOT: Final[Mapping[str, Callable[[SlotReport], Value | None]]] = {
    "release": lambda s: s.release,
    "variant": lambda s: s.name,
    "digest": lambda s: s.variant,
    "counter": lambda s: float(s.counter),
    "rung": lambda s: float(s.rung),
    "serving": lambda s: s.serving,
    "golden_ok": lambda s: s.golden_ok,
    "calibrated": lambda s: bool(s.calibration),
}
"""What ``slot.NAME.…`` may ask of a slot that holds a variant."""

KEYED: Final = ("label", "runtime", *FACETS)


def reader(path: Sequence[str]) -> Reader:
    """How to read one fact.

    Raises:
        UserError: there is none of that name; it says which there are.
    """
    first, rest = path[0], path[1:]
    if not rest and first in PLAIN:
        return PLAIN[first]
    if first == "slot" and len(rest) >= 2 and rest[-1] in SLOT:
        return _of_slot(".".join(rest[:-1]), SLOT[rest[-1]])
    if first in KEYED and rest:
        return _of_key(first, ".".join(rest))
    raise UserError(_unknown(path))


def _unknown(path: Sequence[str]) -> str:
    first, name = path[0], ".".join(path)
    if first == "slot":
        return f"'{name}' is no fact; a slot has slot.NAME.{{{', '.join(SLOT)}}}"
    if first in KEYED:
        return f"'{first}' needs a key, such as {first}.{'site' if first == 'label' else 'onnx'}"
    every = (*PLAIN, *KEYED, "slot")
    close = difflib.get_close_matches(first, every, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return (
        f"a device has no fact '{name}': {hint}there are {', '.join(PLAIN)},"
        f" {', '.join(f'{key}.KEY' for key in KEYED)} and slot.NAME.{{{', '.join(SLOT)}}}"
    )


def _of_key(first: str, key: str) -> Reader:
    if first == "label":
        return lambda device: _there(device.labels, key)
    facet = FACETS["stack" if first == "runtime" else first]
    wanted = f"runtime.{key}" if first == "runtime" else key

    def read(device: Device) -> Sequence[Value]:
        if device.reported is None:
            return ()
        found = facet(device.reported.fingerprint)
        return (found.hash,) if wanted == "hash" else _there(found.facts, wanted)

    return read


def _there(known: Mapping[str, str], key: str) -> Sequence[Value]:
    return (known[key],) if key in known else ()


def _of_slot(name: str, read: Callable[[SlotReport], Value | None]) -> Reader:
    def of(device: Device) -> Sequence[Value]:
        said = [read(slot) for slot in _holding(device) if slot.slot == name]
        return [one for one in said if one is not None]

    return of


def compare(said: Value, op: str, value: Value) -> bool:
    """Whether what a device says stands so to a constant.

    Numbers are compared as numbers; in quotes, as versions: "1.9" is before "1.20".
    """
    if op == "held":
        return said if isinstance(said, bool) else said not in ("", "0", "false", 0.0)
    if op == "~":
        return isinstance(said, str) and fnmatch.fnmatchcase(said, str(value))
    if op == "==":
        return _alike(said, value)
    if isinstance(said, bool) or isinstance(value, bool):
        return False
    if isinstance(value, float):
        number = _number(said)
        return number is not None and _stands(number, op, value)
    return _stands(_ordered(said), op, _ordered(value))


def _stands(one: Any, op: str, other: Any) -> bool:
    return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[op])


def _alike(said: Value, value: Value) -> bool:
    if isinstance(said, bool) or isinstance(value, bool):
        return _word(said) == _word(value)
    if isinstance(said, str) and isinstance(value, str):
        return said == value
    return _number(said) == _number(value) is not None


def _number(value: Value) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _word(value: Value) -> str:
    return str(value).lower()


_PIECE: Final = re.compile(r"(\d+)")


def _ordered(value: Value) -> tuple[tuple[int, int, str], ...]:
    """Its numbers by size and the text between them by letter; ``1.20`` comes after ``1.9``."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    pieces = [piece for piece in _PIECE.split(text) if piece not in ("", ".")]
    return tuple((1, int(p[:18]), "") if p.isdecimal() else (0, 0, p) for p in pieces)


def shown(value: Value) -> str:
    """A value as an expression has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else f'"{value}"'
