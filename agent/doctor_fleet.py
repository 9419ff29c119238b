"""What the doctor says of this device's place in its fleet. Reads, asks nobody who it is."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent import status
from agent.config import Settings
from agent.desk import Folders
from agent.domain.record import SlotFacts
from agent.errors import AgentError
from agent.findings import Finding, fail, ok, warn
from agent.identity import Identity, read_identity, renew_from_unix
from fitment.core import digest

_CONNECT_S: Final = 3.0
_DAY_S: Final = 86400.0

Reach = Callable[[str], str]
"""Why an address does not answer; empty: it does."""


def look(data_dir: Path, now_unix: float, *, reach: Reach | None = None) -> Iterator[Finding]:
    """Enrolment, certificate, the controller's addresses, and what the slots hold."""
    folders = Folders(data_dir=data_dir.absolute())
    try:
        identity = read_identity(folders, Settings())
    except AgentError as error:
        yield warn("enrolment", str(error), "enrol this device: it joins no fleet until then")
        return
    yield ok("enrolment", f"'{identity.device}' of {identity.enroll or identity.gateway}")
    yield _certificate(folders, identity, now_unix)
    yield from _controller(identity, reach or connects)
    yield from _slots(folders)


def connects(address: str) -> str:
    """Try a TCP connection; nothing is sent."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return "that is no HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _certificate(folders: Folders, identity: Identity, now_unix: float) -> Finding:
    if not identity.expires_unix:
        return ok("certificate", "nobody said when it expires")
    day = time.strftime("%Y-%m-%d", time.gmtime(identity.expires_unix))
    left = f"{(identity.expires_unix - now_unix) / _DAY_S:.0f} days"
    if now_unix >= identity.expires_unix:
        mend = "the agent renews it by its key when the controller answers: let it run"
        return warn("certificate", f"it expired on {day}", mend)
    if now_unix >= renew_from_unix(folders, identity):
        mend = (
            "it should have been renewed by now: see that the agent runs, and reaches its gateway"
        )
        return warn("certificate", f"valid until {day} ({left})", mend)
    return ok("certificate", f"valid until {day} ({left})")


def _controller(identity: Identity, reach: Reach) -> Iterator[Finding]:
    for name, address in (("gateway", identity.gateway), ("broker", identity.mqtt)):
        if not address:
            continue
        why = reach(address)
        if why:
            mend = "what serves goes on; look at the network, the address, and a firewall between"
            yield warn(name, f"{address} does not answer: {why}", mend)
        else:
            yield ok(name, f"{address} takes connections")


def _slots(folders: Folders) -> Iterator[Finding]:
    try:
        found = status.read(folders, Settings()).slots
    except AgentError as error:
        yield warn("slots", str(error), "run the agent: fitment-agent run")
        return
    held = [facts for facts in found if facts.variant]
    if not held:
        yield ok("slots", "none holds a model yet")
    for facts in held:
        yield _slot(facts)


def _slot(facts: SlotFacts) -> Finding:
    subject = f"slot {facts.slot}"
    if facts.golden_ok is not False and not facts.damaged and not facts.reason:
        return ok(subject, f"{facts.name} {digest.short(facts.variant)}")
    why = facts.reason or ("its files are damaged" if facts.damaged else "it answers wrongly")
    mend = "the agent mends damaged files by itself; otherwise roll out a variant for this stack"
    return fail(subject, f"{facts.name} does not serve: {why}", mend)
