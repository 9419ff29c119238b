"""mosquitto as a child: written files, watched process, and no child that outlives us.

One thread starts the child, waits for its end and starts it again: the kernel's parent-death
signal is bound to the *thread* that started a process, so that thread must live as long.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from controller.config import ANY_HOSTS
from controller.errors import FitmentError, Temporary
from controller.gateway import leash
from controller.gateway.broker_files import BrokerFiles, acl_text, config_text

log = logging.getLogger(__name__)

ACCEPT_WAIT_S = 10.0
STOP_WAIT_S = 5.0
LOOK_S, STEADY_LOOKS = 0.05, 3
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0
"""A child that lived this long starts the back-off anew."""
SERVICE_USER = "mosquitto"
_BIN = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The program, or why there is none."""

    program: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """TLS files of the trust folder that the broker gets copies of."""

    ca: Path
    certificate: Path
    key: Path
    crl: Path


def find_mosquitto(path: str | None = None) -> Found:
    """Look for mosquitto on the search path and where Debian hides daemons from users."""
    search = os.environ.get("PATH", "") if path is None else path
    places = search if path is not None else os.pathsep.join((search, *_BIN))
    program = shutil.which("mosquitto", path=places)
    if program is None:
        return Found(
            program=None,
            reason="mosquitto is not installed (on Debian: apt-get install mosquitto)",
        )
    return Found(program=program)


def free_port(host: str) -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Broker:
    """One mosquitto below ``folder``, listening on ``host:port``."""

    def __init__(
        self, program: str, folder: Path, *, host: str, port: int, identity: Identity
    ) -> None:
        self.host = host
        self.port = port or free_port(host)
        self.files = BrokerFiles(folder=folder)
        self._program = program
        self._identity = identity
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._failure = ""

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when there is none."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else 0

    @property
    def local_host(self) -> str:
        """Where this machine itself reaches it."""
        return ANY_HOSTS.get(self.host, self.host)

    def start(self, revoked: Iterable[str] = ()) -> None:
        """Write the files, start the child and wait until it accepts connections.

        Raises:
            FitmentError: it ended at once, with the end of its log.
            Temporary: it does not accept connections in time.
        """
        self._write_files(revoked)
        self._stopping.clear()
        self._watcher = threading.Thread(target=self._watch, name="broker", daemon=True)
        self._watcher.start()
        deadline = time.monotonic() + ACCEPT_WAIT_S
        looks = 0  # it listens before it reads its certificate, and ends when that is wrong
        while looks < STEADY_LOOKS:
            looks = looks + 1 if self.pid and self._accepts() else 0
            if self._failure:
                self.stop()
                raise FitmentError(f"mosquitto does not start: {self._failure}")
            if time.monotonic() > deadline:
                self.stop()
                raise Temporary(f"mosquitto does not accept on {self.host}:{self.port}")
            time.sleep(LOOK_S)
        log.info("action=broker_up host=%s port=%d pid=%d", self.host, self.port, self.pid)

    def reload(self, revoked: Iterable[str]) -> None:
        """Take in a new revocation list and access list; sessions of others stay."""
        self._write_lists(revoked)
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End the child and wait for it; safe to call twice."""
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
        if self._watcher is not None:
            self._watcher.join(STOP_WAIT_S)
            if self._watcher.is_alive() and child is not None:
                child.kill()
                self._watcher.join(STOP_WAIT_S)
            self._watcher = None

    def log_tail(self, lines: int = 5) -> str:
        """The end of its log, on one line."""
        if not self.files.log.exists():
            return "(no log)"
        text = self.files.log.read_text(errors="replace")
        return " | ".join(text.splitlines()[-lines:])

    def _watch(self) -> None:
        pause_s = BACKOFF_FIRST_S
        first = True
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            if first and time.monotonic() - began < STEADY_S and not self._accepts():
                self._failure = f"exit {code}: {self.log_tail()}"
            first = False
            log.warning("action=broker_died code=%s log=%s", code, self.log_tail(2))
            pause_s = BACKOFF_FIRST_S if time.monotonic() - began > STEADY_S else pause_s
            self._stopping.wait(pause_s)
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    def _run_once(self) -> int:
        with self.files.log.open("ab") as output:
            self._child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours: the link goes before the broker
            )
        if self._stopping.is_set():  # stop() came before there was a child to end
            self._child.terminate()
        return self._child.wait()

    def _command(self) -> list[str]:
        owner = None
        if self._user() == SERVICE_USER:
            # mosquitto's own change of user would clear the parent-death signal.
            known = pwd.getpwnam(SERVICE_USER)
            owner = known.pw_uid, known.pw_gid
        return leash.command([self._program, "-c", str(self.files.config)], owner=owner)

    def _user(self) -> str:
        """Whom the broker runs as: empty when we are not root and there is no choice."""
        if os.geteuid() != 0:
            return ""
        try:
            pwd.getpwnam(SERVICE_USER)
        except KeyError:
            return "root"
        return SERVICE_USER if _open_to_others(self.files.folder.parent) else "root"

    def _write_files(self, revoked: Iterable[str]) -> None:
        self.files.folder.mkdir(parents=True, exist_ok=True)
        self.files.folder.chmod(0o700)
        for source, target in (
            (self._identity.ca, self.files.ca),
            (self._identity.certificate, self.files.certificate),
            (self._identity.key, self.files.key),
        ):
            _write(target, source.read_bytes())
        text = config_text(self.files, host=self.host, port=self.port, user=self._user())
        _write(self.files.config, text.encode())
        self._write_lists(revoked)
        self._hand_over(self.files.folder)

    def _write_lists(self, revoked: Iterable[str]) -> None:
        _write(self.files.crl, self._identity.crl.read_bytes())
        _write(self.files.acl, acl_text(revoked).encode())
        listed = ("config", "acl", "ca", "crl", "certificate", "key")
        paths = [getattr(self.files, name) for name in listed]
        self._hand_over(*[path for path in paths if path.exists()])

    def _hand_over(self, *paths: Path) -> None:
        if self._user() != SERVICE_USER:
            return
        owner = pwd.getpwnam(SERVICE_USER)
        for path in paths:
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def _accepts(self) -> bool:
        try:
            with socket.create_connection((self.local_host, self.port), timeout=1.0):
                return True
        except OSError:
            return False


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    temporary.replace(path)


def _open_to_others(folder: Path) -> bool:
    """Whether another user may pass through ``folder`` and all above it."""
    chain = (folder.resolve(), *folder.resolve().parents)
    return all(part.stat().st_mode & stat.S_IXOTH for part in chain)
