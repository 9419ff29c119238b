"""Composition root: makes the real parts and wires them, once."""

from __future__ import annotations

import fcntl
import logging
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent import durable, served
from agent import identity as identities
from agent.applications import Applications
from agent.clock import EARLIEST_UNIX, SystemClock
from agent.config import Settings
from agent.desk import Folders
from agent.errors import AgentError, ConfigError
from agent.hardware import read_fingerprint, read_metering, read_zone
from agent.identity import Identity
from agent.journal import Journal, open_journal
from agent.loop import Supervisor
from agent.parts import Parts
from agent.runner import ProcessRunner
from agent.sensors import Strain, written_bytes
from agent.slots import Slots
from agent.telemetry import sample_device
from agent.transport.link import AgentLink
from agent.transport.papers import Papers
from agent.watch import FingerprintWatch, SettingsWatch
from fitment.core.deployment import DeploymentState as State
from fitment.core.fingerprint import Fingerprint

log = logging.getLogger(__name__)

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def supervisor(load: Callable[[], Settings], *, file: Path | None = None) -> Iterator[Supervisor]:
    """A supervisor on this device's data, which it has to itself.

    Args:
        load: reads the settings; called again when their file was written to.
        file: where they are; by default ``config.toml`` of the data directory.

    Raises:
        AgentError: not enrolled, wrong settings, a damaged data directory, or another agent has
            it.
    """
    settings = load()
    folders = Folders(data_dir=settings.data_dir.absolute())
    identity = identities.read_identity(folders, settings)
    boot_id = read_boot_id()
    with _alone(folders.data_dir):
        runner = ProcessRunner(folders.jobs)
        runner.sweep()
        slots = Slots(folders.slots)
        journal = open_journal(folders.journal)
        restore_slots(journal, slots)
        sockets, strain = settings.sockets or folders.serving, Strain()
        yield Supervisor(
            Parts(
                clock=SystemClock(),
                folders=folders,
                identity=identity,
                journal=journal,
                slots=slots,
                runner=runner,
                link=make_link(settings, folders, identity, boot_id=boot_id),
                settings=SettingsWatch(settings, load, file or folders.config),
                fingerprint=FingerprintWatch(fingerprint_of),
                boot_id=boot_id,
                jitter=random.random,
                sample=lambda root: {**sample_device(root), **served.columns(sockets)},
                time_zone=lambda now: now.time_zone or read_zone(now.hardware.root),
                sense=lambda root, throttle_c: strain.read(root, throttle_c=throttle_c),
                applications=Applications(sockets.absolute()),
                floor_unix=EARLIEST_UNIX,
                metering=read_metering,
                written=written_bytes,
            )
        )


def make_link(
    settings: Settings, folders: Folders, identity: Identity, *, boot_id: str
) -> AgentLink:
    """The link that the settings and the enrolment ask for.

    Raises:
        ConfigError: MQTT is asked for and nobody said where.
    """
    if settings.link == "grpc" or (settings.link == "auto" and not identity.mqtt):
        return _session(folders, identity, boot_id)
    if not identity.mqtt:
        raise ConfigError(
            "link is 'mqtt', but the controller named no broker at enrolment: set [agent] mqtt to"
            " its HOST:PORT, or link to 'auto'"
        )
    from agent.transport.mqtt import Broker, MqttLink

    host, port, tls = parse_broker(identity.mqtt)
    keys = folders.keys
    broker = Broker(
        host=host,
        port=port,
        ca=keys / "ca.crt" if tls else None,
        certificate=keys / "device.crt",
        key=keys / "device.key",
    )
    return MqttLink(broker, device=identity.device, boot_id=boot_id)


def parse_broker(address: str) -> tuple[str, int, bool]:
    """(host, port, TLS) of ``host:port``, ``mqtts://host:port`` or ``mqtt://host:port``.

    Raises:
        ConfigError: it is none of these, or goes without TLS to another machine.
    """
    parts = urlsplit(address if "://" in address else f"mqtts://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("mqtt", "mqtts") or not host:
        raise ConfigError(f"not a broker's address: {address!r} (use HOST:PORT)")
    tls = parts.scheme == "mqtts"
    if not tls and host not in _LOOPBACK:
        raise ConfigError(
            f"{address} is without TLS, which goes to this machine only: use mqtts://"
        )
    return host, port or (8883 if tls else 1883), tls


def _session(folders: Folders, identity: Identity, boot_id: str) -> AgentLink:
    from agent.transport.session import SessionLink, tls_credentials

    keys = folders.keys
    papers = Papers(ca=keys / "ca.crt", certificate=keys / "device.crt", key=keys / "device.key")

    def credentials() -> Any:
        files = (papers.ca, papers.certificate, papers.key)
        return tls_credentials(*(file.read_bytes() for file in files))

    return SessionLink(identity.gateway, credentials, boot_id=boot_id, papers=papers)


def fingerprint_of(settings: Settings) -> Fingerprint:
    """What this device is under these settings."""
    return read_fingerprint(
        root=settings.hardware.root,
        settings=settings.hardware,
        options=settings.options,
        enabled=settings.enabled,
    )


def restore_slots(journal: Journal, slots: Slots) -> None:
    """Fill a journal that is new, or lost its end, with what the disk says of the slots.

    SQLite takes a damaged write-ahead log for one that ends there: such a journal opens clean and
    is a day old. What was committed since then is seen by the counters beside the slots.
    """
    new = bool(journal.lost) or not journal.setting("outbox")
    committing = _committing(journal)
    for slot in slots.names():
        told, known = slots.read_facts(slot), journal.slot(slot)
        behind = told.counter > known.counter and (slot, told.counter) != committing
        if not new and not behind:
            continue
        facts = slots.restore(slot)
        if facts.variant or facts.counter:
            log.warning("action=restore slot=%s variant=%s", slot, facts.variant)
            journal.lost = (
                journal.lost or "the journal lost what it knew: slots were read from disk"
            )
            journal.save_slot(facts)


def _committing(journal: Journal) -> tuple[str, int] | None:
    """Slot and counter that are on their way into the journal: the disk has them first."""
    record = journal.active()
    if record is None or record.state not in (State.COMMITTING, State.ROLLING_BACK):
        return None
    return record.assignment.slot, record.assignment.counter


def read_boot_id() -> str:
    """The kernel's name for this boot; a random one where it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return str(uuid.uuid4())


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Two agents on one data directory would tear its slots apart."""
    try:
        durable.make_folder(data_dir, mode=0o700)
        lock = (data_dir / "agent.lock").open("w")
    except OSError as error:
        raise AgentError(f"cannot write to {data_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(f"another agent runs on {data_dir}: stop it first") from error
        yield
