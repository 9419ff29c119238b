"""Applications that load a slot's model by themselves: a socket where they say so.

The supervisor's loop looks at it between its other work, so an answer takes up to half a second
and no thread is needed. The wire is in ``agent/APPLICATIONS.md``; `agent.client` speaks it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent import durable
from agent.domain import expects as matching
from agent.domain.leases import LEASE_S, Given, Lease, NotGiven, Registered, renewed
from agent.domain.plan import safe_name
from agent.domain.rungs import parted, rung_slot
from agent.errors import AgentError
from agent.journal import Journal
from agent.peers import Broken, Peer, listener
from agent.slots import Slots
from fitment.core import plain
from fitment.core.bundle import MANIFEST_NAME, BundleManifest
from fitment.core.deployment import DeploymentState

log = logging.getLogger(__name__)

SOCKET: Final = "applications"
"""Its name in the folder of sockets."""
_SETTING: Final = "applications"  # of the journal
_MISSED: Final = "applications_missed"  # those that ended with what is on trial
_MOST_PEERS: Final = 64
_MOST_EXPECTED: Final = 8192  # characters of JSON
_MOST_NESTED: Final = 16  # lists and objects in what is expected
_MOST_LATENCIES: Final = 4096  # in one report
_MOST_ERRORS: Final = 10**9  # in one report


class Refused(Exception):
    """An application asks for what cannot be done."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Applications:
    """All leases of one device. For the supervisor's thread alone."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where the socket will be."""
        self.path = folder / SOCKET
        self.problem = ""  # why no application can reach us
        self._socket: socket.socket | None = None
        self._peers: dict[Peer, Lease | None] = {}
        self._away: list[Lease] = []  # of an earlier process of ours: they may come back
        self._gone: list[Lease] = []  # ended unreleased, while what they were given is on trial
        self._missed: list[tuple[Registered, Given]] = []  # of these, what the journal holds
        self._kept: list[Registered] | None = None  # what the journal holds; None: not read yet

    def listen(self) -> None:
        """Open the socket; where that fails, `problem` says why and all else goes on."""
        try:
            durable.make_folder(self.path.parent, mode=0o750)
            durable.remove(self.path)  # of a process that was killed
            self._socket = listener(self.path)
        except OSError as error:
            self.problem = f"applications cannot reach the agent at {self.path}: {error}"
            log.warning("action=applications reason=%s", error)

    def close(self) -> None:
        """Leases stay in the journal: whoever holds one comes back to the next process."""
        for peer in self._peers:
            peer.close()
        self._peers.clear()
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(OSError):  # the next process removes it
                durable.remove(self.path)

    def tick(self, journal: Journal, slots: Slots, now_s: float) -> None:
        """Take in what applications say, answer, and let leases lapse."""
        if self._kept is None:
            self._away = _read(journal, now_s)
            self._gone = _read_missed(journal, now_s)
            self._missed = [(one.registered, one.given) for one in self._gone]
            self._kept = self._registered()
        self._accept()
        for peer in list(self._peers):
            self._hear(peer, journal, slots, now_s)
        self._lapse(now_s)
        self._gone = _on_trial(self._gone, journal, slots) if self._gone else []
        self._keep_missed(journal)  # first: a new process must not take one for released
        self._keep(journal, self._registered())

    @property
    def any(self) -> bool:
        """Whether there is a lease at all."""
        return next(self._leases(), None) is not None

    def of(self, slot: str) -> tuple[Lease, ...]:
        """Leases on a slot."""
        return tuple(lease for lease in self._leases() if lease.registered.slot == slot)

    def gone(self, slot: str) -> tuple[Lease, ...]:
        """Of applications that were given what is on trial, and ended without giving it back."""
        return tuple(lease for lease in self._gone if lease.registered.slot == slot)

    def holder(self, folder: Path) -> str:
        """Which application needs a bundle's folder as it is; empty: none.

        What one of an earlier process of ours has loaded is not known until it comes back: it
        holds all that is in its slot, rungs as well.
        """
        slot, _ = parted(folder.parent.name)
        held = (one for one in self._leases() if str(folder) in one.holds)
        away = (one for one in self._away if one.registered.slot == slot)
        return next((one.registered.application for one in (*held, *away)), "")

    def _leases(self) -> Iterator[Lease]:
        yield from (lease for lease in self._peers.values() if lease is not None)
        yield from self._away

    def _registered(self) -> list[Registered]:
        found = (lease.registered for lease in self._leases())
        return sorted(found, key=_order)

    def _accept(self) -> None:
        while self._socket is not None:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # nobody is waiting
                return
            if len(self._peers) >= _MOST_PEERS:
                connection.close()
            else:
                self._peers[Peer(connection)] = None

    def _hear(self, peer: Peer, journal: Journal, slots: Slots, now_s: float) -> None:
        """Answer one connection; one that ended takes its lease with it."""
        try:
            for header in peer.headers():
                peer.send(self._answer(peer, header, _World(journal, slots, now_s)))
        except Broken as error:
            with contextlib.suppress(ConnectionError):
                peer.send({"ok": False, "code": "frame", "message": str(error)})
            self._end(peer, "broke the framing")
        except ConnectionError:
            self._end(peer, "ended")

    def _answer(self, peer: Peer, header: Mapping[str, Any], world: _World) -> dict[str, Any]:
        try:
            return {"ok": True, **self._operation(peer, header)(peer, header, world)}
        except Refused as error:
            return {"ok": False, "code": error.code, "message": str(error)}
        except RecursionError:  # what was read at one depth of the stack may not be at another
            return {"ok": False, "code": "invalid", "message": "it is nested too deeply"}

    def _operation(
        self, peer: Peer, header: Mapping[str, Any]
    ) -> Callable[[Peer, Mapping[str, Any], _World], dict[str, Any]]:
        known = {
            "register": self._register, "lease": self._lease, "loaded": self._loaded,
            "report": self._report, "release": self._release,
        }  # fmt: skip
        operation = known.get(str(header.get("op")))
        if operation is None:
            what = f"no operation {header.get('op')!r}; there are {', '.join(known)}"
            raise Refused("op_unknown", what)
        if operation != self._register and self._peers[peer] is None:
            raise Refused("not_registered", "this connection has no lease: register first")
        return operation

    def _register(self, peer: Peer, header: Mapping[str, Any], world: _World) -> dict[str, Any]:
        registered = _registration(header)
        if self._peers[peer] is not None:
            raise Refused("registered", "this connection has a lease: open another one")
        same = [one for one in self._leases() if _same(one.registered, registered)]
        if any(one not in self._away for one in same):
            what = f"'{registered.application}' has a lease on '{registered.slot}' already"
            raise Refused("taken", f"{what}: give each process a name of its own")
        given = world.given(registered.slot)
        wrong = misfits(registered, Path(given.folder))
        if wrong:
            raise Refused("io_mismatch", wrong)
        # One that comes back has no more time than it had.
        before = (one.since_s for one in (*same, *self._gone) if _same(one.registered, registered))
        since_s = min(before, default=world.now_s)
        lease = Lease(registered=registered, since_s=since_s, heard_s=world.now_s, given=given)
        others = [one for one in self._registered() if not _same(one, registered)]
        try:
            self._keep(world.journal, [*others, registered])  # before it may count on it
        except AgentError as error:
            raise Refused("disk", f"the lease cannot be kept: {error}") from error
        self._away = [one for one in self._away if one not in same]
        self._gone = [one for one in self._gone if not _same(one.registered, registered)]
        self._peers[peer] = lease
        log.info("action=lease application=%s slot=%s", registered.application, registered.slot)
        return {**plain.to_plain(given), "lease_s": LEASE_S}

    def _lease(self, peer: Peer, _header: Mapping[str, Any], world: _World) -> dict[str, Any]:
        lease = self._held(peer)
        lease.heard_s = world.now_s  # an application may ask while the slot holds nothing
        renewed(lease, world.given(lease.registered.slot), world.now_s)
        return {**plain.to_plain(lease.given), "lease_s": LEASE_S}

    def _loaded(self, peer: Peer, header: Mapping[str, Any], world: _World) -> dict[str, Any]:
        lease = self._held(peer)
        lease.heard_s = world.now_s
        try:
            lease.acknowledge(str(header.get("variant", "")))
        except NotGiven as error:
            raise Refused("not_given", str(error)) from error
        return {}

    def _report(self, peer: Peer, header: Mapping[str, Any], world: _World) -> dict[str, Any]:
        lease = self._held(peer)
        lease.heard_s = world.now_s
        latencies, errors = header.get("latencies_ms", []), header.get("errors", 0)
        right = isinstance(latencies, list) and len(latencies) <= _MOST_LATENCIES
        if not right or not all(_is_latency(one) for one in latencies):
            what = f"'latencies_ms' is a list of at most {_MOST_LATENCIES} finite numbers from 0"
            raise Refused("invalid", what)
        count = isinstance(errors, int) and not isinstance(errors, bool)
        if not count or not 0 <= errors <= _MOST_ERRORS:
            what = f"'errors' is a count of requests that failed, at most {_MOST_ERRORS}"
            raise Refused("invalid", what)
        lease.report([float(one) for one in latencies], errors)
        return {}

    def _release(self, peer: Peer, _header: Mapping[str, Any], _world: _World) -> dict[str, Any]:
        self._peers[peer] = None
        return {}

    def _keep(self, journal: Journal, registered: list[Registered]) -> None:
        registered = sorted(registered, key=_order)
        if registered != self._kept:
            text = json.dumps([plain.to_plain(one) for one in registered])
            journal.save_setting(_SETTING, text)
            self._kept = registered

    def _keep_missed(self, journal: Journal) -> None:
        missed = [(one.registered, one.given) for one in self._gone]
        if missed != self._missed:
            journal.save_setting(_MISSED, json.dumps(plain.to_plain(missed)))
            self._missed = missed

    def _held(self, peer: Peer) -> Lease:
        lease = self._peers[peer]
        assert lease is not None  # seen to by `_operation`
        return lease

    def _lapse(self, now_s: float) -> None:
        for peer, lease in list(self._peers.items()):
            if lease is not None and lease.lapsed(now_s):
                self._end(peer, f"was silent for {LEASE_S:g} s")
        self._away = [one for one in self._away if not one.lapsed(now_s)]

    def _end(self, peer: Peer, why: str) -> None:
        peer.close()
        lease = self._peers.pop(peer)
        if lease is not None:
            self._gone.append(lease)
            name = lease.registered.application
            log.info("action=lease_ended application=%s reason=%s", name, why)


class _World:
    """What the slots lead to at this moment."""

    def __init__(self, journal: Journal, slots: Slots, now_s: float) -> None:
        self.journal, self.slots, self.now_s = journal, slots, now_s

    def given(self, slot: str) -> Given:
        """The bundle that serves in a slot, or is on trial there.

        Raises:
            Refused: ``slot_empty``.
        """
        held = rung_slot(slot, self.slots.rung(slot))
        letter, facts = self.slots.active(held), self.journal.slot(held)
        variant = facts.variant if letter and letter == facts.last_good else ""
        record = self.journal.active()
        if letter and record is not None and record.assignment.slot == held:
            variant = record.assignment.bundle.variant if record.folder == letter else variant
        if not variant:
            raise Refused("slot_empty", f"slot '{slot}' holds no model yet: ask again later")
        overlay = self.slots.overlay(held, letter)
        return Given(
            folder=str(self.slots.folder(held, letter)), variant=variant,
            overlay=str(overlay) if overlay.exists() else "",
        )  # fmt: skip


def misfits(registered: Registered, folder: Path) -> str:
    """Where a bundle is not what an application expects, as a sentence; empty: it is."""
    if registered.expects is None:
        return ""
    try:
        manifest = plain.from_plain(
            BundleManifest, json.loads((folder / MANIFEST_NAME).read_bytes())
        )
        spec = plain.to_plain(manifest.io) or {"inputs": [], "outputs": []}
        found = {"layout": "", "labels": [], "preprocessing": {}, **spec}
        wrong = matching.problems(registered.expects, found)
    except (OSError, ValueError) as error:
        return f"{folder.name} cannot be held against what the application expects: {error}"
    return f"not what the application expects: {'; '.join(wrong)}" if wrong else ""


def _registration(header: Mapping[str, Any]) -> Registered:
    application, slot = header.get("application"), header.get("slot")
    for key, value in (("application", application), ("slot", slot)):
        if not isinstance(value, str) or not safe_name(value):
            raise Refused("invalid", f"'{key}' is a name, not {value!r}")
    expected = header.get("expects")
    if expected is not None and not isinstance(expected, dict):
        raise Refused("invalid", "'expects' is an object, see agent/APPLICATIONS.md")
    if _depth(expected) > _MOST_NESTED:
        raise Refused("invalid", f"'expects' is nested more than {_MOST_NESTED} deep")
    if len(json.dumps(expected)) > _MOST_EXPECTED:
        raise Refused("invalid", f"'expects' is longer than {_MOST_EXPECTED} characters")
    return Registered(application=str(application), slot=str(slot), expects=expected)


def _same(one: Registered, other: Registered) -> bool:
    return (one.application, one.slot) == (other.application, other.slot)


def _depth(value: object) -> int:
    """Of lists and objects in one another; without recursion, which has a limit of its own."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _is_latency(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _on_trial(gone: list[Lease], journal: Journal, slots: Slots) -> list[Lease]:
    """Those that were given what is on trial now."""
    record = journal.active()
    if record is None or record.state is not DeploymentState.TRIAL:
        return []
    folder = str(slots.folder(record.assignment.slot, record.folder))
    return [one for one in gone if one.given.folder == folder]


def _read_missed(journal: Journal, now_s: float) -> list[Lease]:
    """Of an earlier process: how long they were missed by then is not known."""
    return [
        Lease(
            registered=plain.from_plain(Registered, who), given=plain.from_plain(Given, given),
            since_s=now_s, heard_s=now_s,
        )
        for who, given in json.loads(journal.setting(_MISSED, "[]"))
    ]  # fmt: skip


def _order(registered: Registered) -> tuple[str, str]:
    return registered.slot, registered.application


def _read(journal: Journal, now_s: float) -> list[Lease]:
    """Leases of an earlier process: their applications have a while to come back."""
    kept = json.loads(journal.setting(_SETTING, "[]"))
    return [
        Lease(registered=plain.from_plain(Registered, one), since_s=now_s, heard_s=now_s)
        for one in kept
    ]
