"""``fitment-agent shadow``: a bundle sees what a slot's server is asked, and is heard by nobody.

The server compares its answers with those that it gave (`agent/workers/README.md`, op ``shadow``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.client import AwayError, ClientError, Slot
from agent.config import Settings
from agent.desk import Folders
from agent.domain.plan import safe_name
from agent.errors import SlotError, WorkerError
from fitment.core.bundle import MANIFEST_NAME

_LOOK_S: Final = 0.5
_LOAD_S: Final = 120.0  # for the server to load the candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be found out about a candidate."""

    slot: str
    bundle: Path  # its unpacked folder
    overlay: Path | None = None
    inputs: int = 100  # samples that it has to see
    timeout_s: float = 600.0
    agreement_min: float | None = None  # 0..1; None: it is only told


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was found."""

    good: bool
    reason: str  # why not
    shadow: dict[str, Any]  # the server's report: samples, agreement, latencies, errors


def compare(
    folders: Folders, settings: Settings, asked: Asked, say: Callable[[str], None]
) -> Compared:
    """Put a candidate into the shadow until it has seen enough; it leaves it again whatever comes.

    Raises:
        SlotError: nobody serves the slot, or there is no such bundle.
        WorkerError: the server refuses the candidate; the message says why.
    """
    bundle = asked.bundle.absolute()
    if not (bundle / MANIFEST_NAME).is_file():
        raise SlotError(f"{bundle} is no unpacked bundle: it has no {MANIFEST_NAME}")
    with _server(folders, settings, asked.slot) as server:
        server.shadow(bundle, asked.overlay.absolute() if asked.overlay else "")
        try:
            return judge(asked, _watch(server, asked, say))
        finally:
            with contextlib.suppress(AwayError, ClientError):
                server.shadow("")


def end(folders: Folders, settings: Settings, slot: str) -> None:
    """Take out of the shadow whatever is in it.

    Raises:
        SlotError: nobody serves the slot.
    """
    with _server(folders, settings, slot) as server:
        server.shadow("")


def judge(asked: Asked, shadow: dict[str, Any]) -> Compared:
    """Hold what was seen against what was asked."""
    samples, agreement = int(shadow.get("samples", 0)), shadow.get("agreement")
    reason = ""
    if samples < asked.inputs:
        reason = f"only {samples} of {asked.inputs} inputs came in {asked.timeout_s:g} s"
    elif shadow.get("errors"):
        reason = f"it failed: {shadow.get('reason') or shadow['errors']}"
    elif asked.agreement_min is not None and (agreement or 0.0) < asked.agreement_min:
        reason = f"it agrees in {agreement:.4f} of them, at least {asked.agreement_min:g} is asked"
    return Compared(good=not reason, reason=reason, shadow=shadow)


def render(found: Compared) -> str:
    """For people."""
    told = found.shadow
    share = told.get("agreement")
    words = [
        f"{told.get('name')} saw {told.get('samples', 0)} live inputs ({told.get('dropped', 0)}"
        " dropped)" + ("." if share is None else f" and agrees in {100 * share:.2f} %.")
    ]
    own, other = told.get("run_p50_ms"), told.get("serving_run_p50_ms")
    if own is not None and other is not None:
        words.append(
            f"p50 of a run: {own:.3g} ms, at the lowest priority; what serves: {other:.3g}."
        )
    return " ".join([*words, *([f"Not good: {found.reason}."] if found.reason else [])])


@contextlib.contextmanager
def _server(folders: Folders, settings: Settings, slot: str) -> Any:
    path = (settings.sockets or folders.serving) / f"{slot}.sock"
    if not safe_name(slot):
        raise SlotError(f"not a slot name: {slot!r}")
    try:
        with contextlib.closing(Slot(path, timeout_s=_LOAD_S)) as server:
            yield server
    except AwayError as error:
        raise SlotError(f"{error}; start it: fitment-agent serve --slot {slot}") from error
    except ClientError as error:
        raise WorkerError(f"the server of slot '{slot}' refuses: {error}") from error


def _watch(server: Slot, asked: Asked, say: Callable[[str], None]) -> dict[str, Any]:
    until_s, said = time.monotonic() + asked.timeout_s, -1
    while True:
        told = server.stats()["serving"]["shadow"]
        if told is None:
            raise WorkerError("the shadow ended: the candidate serves by now, or it was taken out")
        samples = int(told["samples"])
        if samples != said:
            say(f"{samples} of {asked.inputs} inputs")
            said = samples
        if samples >= asked.inputs or time.monotonic() >= until_s:
            return dict(told)
        time.sleep(_LOOK_S)
