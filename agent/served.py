"""What the serving workers say of themselves, as columns of the telemetry.

The supervisor asks over their sockets; a worker that is not there, or does not answer at once,
has nothing to say this time.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.domain.trial import HOPELESS, Seen, Told

TIMEOUT_S: Final = 0.2
"""Of all that is waited for: the supervisor has other work."""
_LENGTH: Final = struct.Struct(">I")
_MAX_HEADER_BYTES: Final = 64 * 1024
_QUESTION: Final = json.dumps({"op": "stats"}).encode()
TRIAL_TIMEOUT_S: Final = 2.0
"""A server that loads a model is slow to answer."""
_OF_THE_MODEL: Final = ("run_failed", "out_of_memory", "input_mismatch", "io_mismatch", "busy")
"""Errors that another variant may be the cause of; the others are slips of a caller."""


def columns(folder: Path) -> dict[str, float]:
    """One row for all slots whose sockets are in ``folder``; NaN for what is not known."""
    row: dict[str, float] = {}
    for path in sorted(folder.glob("*.sock")):
        stats = ask(path)
        if stats is not None:
            row.update(flat(path.stem, stats))
    return row


def note(servers: dict[str, float], folder: Path, now_s: float) -> None:
    """Note which slots have a server now: their sockets are there."""
    servers.update({path.stem: now_s for path in folder.glob("*.sock")})


def told(path: Path, folder: str) -> Told | None:
    """What the server at ``path`` says for a trial; None when it does not answer.

    ``folder`` is what it should load: only a refusal of that counts.
    """
    stats = ask(path, timeout_s=TRIAL_TIMEOUT_S)
    if stats is None:
        return None
    refused, latency = stats.get("refused") or {}, stats.get("latency") or {}
    if refused.get("folder") != folder:
        refused = {}
    by_code = (stats.get("serving") or {}).get("errors_by_code") or {}
    return Told(
        variant=str(stats.get("variant", "")), requests=int(stats.get("requests", 0)),
        errors=sum(int(by_code.get(code, 0)) for code in _OF_THE_MODEL),
        count=int(latency.get("count", 0)), p50_ms=latency.get("p50_ms"),
        p95_ms=latency.get("p95_ms"), refused=str(refused.get("message", "")),
        hopeless=refused.get("code") in HOPELESS,
    )  # fmt: skip


def seen(path: Path) -> Seen | None:
    """What the server at ``path`` says of its shadow; None when it does not answer."""
    stats = ask(path, timeout_s=TRIAL_TIMEOUT_S)
    if stats is None:
        return None
    shadow = (stats.get("serving") or {}).get("shadow") or {}
    failed = shadow.get("reason") or ", ".join(shadow.get("errors") or {})
    return Seen(
        variant=str(shadow.get("variant", "")), samples=int(shadow.get("samples", 0)),
        agreement=shadow.get("agreement"), failed=str(failed),
    )  # fmt: skip


def shade(path: Path, folder: str, overlay: str) -> None:
    """Ask for a candidate in the shadow, or with no folder for none; `seen` says what came of it.

    Loading takes longer than the supervisor may wait, so the answer is not read.
    """
    question = json.dumps({"op": "shadow", "folder": folder, "overlay": overlay}).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(TRIAL_TIMEOUT_S)
        asked.connect(str(path))
        asked.sendall(_LENGTH.pack(len(question)) + question)


def ask(path: Path, *, timeout_s: float = TIMEOUT_S) -> Mapping[str, Any] | None:
    """A worker's statistics; None when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(_LENGTH.pack(len(_QUESTION)) + _QUESTION)
            with connection.makefile("rb") as stream:
                (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
                answer = json.loads(stream.read(min(length, _MAX_HEADER_BYTES)))
    except (OSError, ValueError, struct.error):
        return None
    return answer if isinstance(answer, dict) and answer.get("ok") else None


def flat(slot: str, stats: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name: ``serving.<slot>.…``; milliseconds, counts, and the inputs' own units."""
    serving, latency = stats.get("serving") or {}, stats.get("latency") or {}
    shadow = serving.get("shadow") or {}
    runs = serving.get("runs")
    found = {
        "requests": stats.get("requests"),
        "errors": stats.get("errors"),
        "rung": stats.get("rung"),
        "latency_p50_ms": latency.get("p50_ms"),
        "latency_p99_ms": latency.get("p99_ms"),
        "samples_a_run": serving.get("samples", 0) / runs if runs else None,
        "shadow_agreement": shadow.get("agreement"),
    }
    for name, moments in (serving.get("inputs") or {}).items():
        for key in ("mean", "std", "min", "max", "drift"):
            found[f"input.{name}.{key}"] = (moments or {}).get(key)
    for name, share in (serving.get("predictions") or {}).items():
        found[f"predicted.{name}"] = share
    return {
        f"serving.{slot}.{name}": math.nan if value is None else float(value)
        for name, value in found.items()
    }
