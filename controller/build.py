"""The composition root: the one place that wires store, trust, engine, link and servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from starlette.types import ASGIApp

from controller import seats
from controller.artifacts import mirrors
from controller.artifacts.blobs import FolderBlobs
from controller.artifacts.deltas import Deltas
from controller.backup import restore
from controller.config import ANY_HOSTS, Settings
from controller.dashboard import serving
from controller.errors import LeaseLost
from controller.gateway.bridge import Bridge
from controller.gateway.door import Door, Doorkeeper, open_door
from controller.gateway.grpc import GrpcServers, ServerFiles
from controller.gateway.grpc_enroll import EnrollService, Welcome
from controller.gateway.grpc_gateway import GatewayService, Stock
from controller.gateway.http.api import Api
from controller.gateway.http.app import make_app
from controller.gateway.http.server import RestServer
from controller.gateway.views import Addresses
from controller.reconcile import recovery
from controller.reconcile.context import Context, ReconcileSettings
from controller.reconcile.controller import Controller
from controller.reconcile.engine import Engine
from controller.reconcile.fitrunner import WorkerFitRunner
from controller.reconcile.leasing import Keeper
from controller.seats import DATABASE_NAME, TENANT
from controller.store.sql import SqlStore
from controller.trust import Trust
from fitment.core import plain
from fitment.core.link import Downlink
from profiles import all_profiles

log = logging.getLogger(__name__)

ADDRESSES_NAME = "controller.json"
TOKEN_NAME = "operator.token"  # noqa: S105 - a file's name
METRICS_TOKEN_NAME = "metrics.token"  # noqa: S105 - the same

Ready = Callable[[Addresses], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """A started controller."""

    addresses: Addresses
    engine: Engine
    controller: Controller
    door: Door
    keeper: Keeper


class Server:
    """One controller on one data directory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, ready: Ready) -> None:
        """Serve until SIGTERM or SIGINT, then stop everything that was started.

        Raises:
            UserError: something in the settings cannot be had (a port, mosquitto).
            Conflict: another controller uses the data directory.
            LeaseLost: another one took over.
        """
        asyncio.run(self._run(ready))

    async def _run(self, ready: Ready) -> None:
        stopping, waiting = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            stopping.set()
            waiting.set()

        def post(act: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(act)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        all_profiles()  # a mistake in one is said before anything is touched
        with seats.DirectoryLock(self.settings.data_dir) as lock:
            seat = await asyncio.to_thread(seats.take, self.settings, lock, waiting)
            if seat is None:
                return
            async with started(self.settings, seat) as wired:
                wired.keeper.tell(lambda: post(stop))
                ready(wired.addresses)
                await stopping.wait()
                log.info("action=stopping")
            if wired.keeper.lost:
                raise LeaseLost(wired.keeper.lost)


@contextlib.asynccontextmanager
async def started(settings: Settings, seat: seats.Seat) -> AsyncIterator[Wired]:
    """Start everything; on leaving, end it in reverse, whatever had been started."""
    async with contextlib.AsyncExitStack() as stack:
        (settings.data_dir / ADDRESSES_NAME).unlink(missing_ok=True)  # of one that was killed
        store = SqlStore(settings.data_dir.resolve() / DATABASE_NAME, TENANT)
        keeper = stack.enter_context(seats.kept(store, seat))
        trust, notes = open_trust(settings)
        trust.repository.before_signing = keeper.must_act
        relay = _Relay(keeper.must_act)
        controller = _controller(settings, store, trust, relay)
        stack.callback(controller.context.fits.stop)
        notes += _recovered(settings, controller)
        engine = Engine(controller, tick_s=settings.tick_s, guard=keeper.check)
        engine.start()
        stack.callback(engine.stop)

        def revoked() -> frozenset[str]:
            return engine.call(lambda: _revoked(controller)).result()

        door = await asyncio.to_thread(open_door, settings, trust.files, revoked)
        stack.callback(door.close)
        base = _Base(
            settings=settings, trust=trust, engine=engine, controller=controller, keeper=keeper
        )
        addresses = await _serve(stack, base, door=door, revoked=revoked, notes=notes)
        relay.publish = door.link.publish
        await asyncio.to_thread(door.link.start, Bridge(engine, controller, door.link))
        stack.callback(door.link.stop)
        stack.enter_context(_announced(settings.data_dir, addresses))
        yield Wired(
            addresses=addresses, engine=engine, controller=controller, door=door, keeper=keeper
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What the servers stand on."""

    settings: Settings
    trust: Trust
    engine: Engine
    controller: Controller
    keeper: Keeper


async def _serve(
    stack: contextlib.AsyncExitStack,
    base: _Base,
    *,
    door: Door,
    revoked: Callable[[], frozenset[str]],
    notes: tuple[str, ...],
) -> Addresses:
    """Bind all ports, then serve on them: nobody is told an address that is not taken yet."""
    settings, trust = base.settings, base.trust
    servers = GrpcServers(settings.host, _server_files(trust))
    servers.bind(enroll_port=settings.enroll_port, gateway_port=settings.gateway_port)
    stack.push_async_callback(servers.stop)
    rest = RestServer(settings.rest_host, settings.rest_port)
    stack.push_async_callback(rest.stop)
    host = settings.told_host
    pages = settings.dashboard and serving.is_available()
    lacking = (serving.MISSING,) if settings.dashboard and not pages else ()
    addresses = Addresses(
        rest=f"http://{settings.rest_host}:{rest.port}",
        enroll=f"{host}:{servers.enroll_port}",
        gateway=f"{host}:{servers.gateway_port}",
        mqtt=door.mqtt_address,
        dashboard=f"http://{settings.rest_host}:{rest.port}/" if pages else "",
        link=door.kind,
        pid=os.getpid(),
        version=metadata.version("fitment"),
        notes=(*notes, *door.notes, *lacking),
    )
    doorkeeper = Doorkeeper(door, revoked, trust.files.crl)
    enroll = EnrollService(
        base.engine, base.controller, welcome=_welcome(trust, addresses), let_in=doorkeeper.look
    )
    gateway = _gateway(base, door)
    await servers.start(base.engine, base.controller, enroll=enroll, gateway=gateway)
    api = Api(
        controller=base.controller,
        engine=base.engine,
        addresses=addresses,
        link=door.link.describe(),
        data_dir=settings.data_dir.resolve(),
        link_up=door.link.is_up,
        shut_out=doorkeeper.look,
        lease=lambda: base.keeper.held,
        lost=lambda: base.keeper.lost,
    )
    tokens = operator_token(settings.data_dir), metrics_token(settings.data_dir)
    app: ASGIApp = make_app(api, *tokens)
    if pages:
        app = await stack.enter_async_context(serving.opened(app, api, tokens[0]))
    await rest.start(app)
    return addresses


def _gateway(base: _Base, door: Door) -> GatewayService:
    blobs, trust = base.controller.context.blobs, base.trust
    made = base.settings.data_dir.resolve() / "deltas"
    return GatewayService(
        base.engine,
        base.controller,
        sessions=door.sessions,
        stock=Stock(
            blobs=blobs,
            read_metadata=trust.repository.read,
            deltas=Deltas(made, blobs, trust.repository.archive_of),
            locate=mirrors.parse(base.settings.artifact_urls).urls,
        ),
        ca_pem=trust.ca.certificate_pem,
    )


class _Relay:
    """Stands for the link until there is one: what is published before is published again."""

    def __init__(self, may_send: Callable[[], None]) -> None:
        self.publish: Callable[[str, Downlink], None] | None = None
        self.may_send = may_send

    def __call__(self, device: str, downlink: Downlink) -> None:
        self.may_send()
        if self.publish is not None:
            self.publish(device, downlink)


def _controller(
    settings: Settings, store: SqlStore, trust: Trust, relay: _Relay
) -> Controller:  # fmt: skip
    data_dir = settings.data_dir.resolve()
    context = Context(
        store=store,
        trust=trust,
        blobs=FolderBlobs(data_dir / "blobs"),
        profiles=all_profiles(),
        fits=WorkerFitRunner(data_dir / "jobs", threads=settings.fit_threads),
        publish=relay,
        must_act=relay.may_send,
        clock=time.time,
        settings=ReconcileSettings(
            enrolment_by_approval=settings.enrolment_by_approval,
            optimise=settings.optimise,
            auto_approve=settings.auto_approve,
            retention=settings.retention,
            telemetry_interval_s=settings.telemetry_interval_s,
        ),
        started_at=time.time(),
    )
    return Controller(context)


def _recovered(settings: Settings, controller: Controller) -> tuple[str, ...]:
    """What a first start on a restored directory has to do, and to say."""
    place = settings.data_dir.resolve()
    restored = restore.marker(place)
    if restored is None:
        return ()
    origin = recovery.Origin(backup_at=restored.backup_at, was=Path(restored.was), now=place)
    notes = recovery.begin(controller.context, origin)
    restore.done(place)
    return notes


def _revoked(controller: Controller) -> frozenset[str]:
    return frozenset(device.name for device in controller.store.devices.find(revoked=True))


def open_trust(settings: Settings) -> tuple[Trust, tuple[str, ...]]:
    """The trust folder, made at the first start; and what an operator should know of it."""
    folder = settings.data_dir.resolve() / "trust"
    offline = settings.offline.resolve()
    hosts = [host for host in (settings.host, settings.public_host) if host not in ANY_HOSTS]
    hosts = [host for host in hosts if host]
    if not (folder / "ca").exists():
        trust = Trust.create(folder, offline, hosts)
    else:
        trust = Trust.open(folder, offline)
        trust.set_hosts(hosts)
    if settings.offline_dir is None and offline.exists():
        note = (
            f"the offline keys are online: {offline} signs releases on this machine;"
            " move the folder away and start with --offline-dir when you approve"
        )
        return trust, (note,)
    return trust, ()


def _welcome(trust: Trust, addresses: Addresses) -> Welcome:
    return Welcome(
        ca_pem=trust.ca.certificate_pem,
        tuf_root=trust.repository.root_bytes(),
        director_public_key=trust.director.public_raw,
        director_key_id=trust.director.key_id,
        gateway_address=addresses.gateway,
        mqtt_address=addresses.mqtt,
    )


def _server_files(trust: Trust) -> ServerFiles:
    files = trust.files
    return ServerFiles(key=files.server_key, chain=files.server_certificate, ca=files.ca)


def operator_token(data_dir: Path) -> str:
    """The token that operators show; made at the first start, readable by the owner only."""
    return _kept_token(data_dir / TOKEN_NAME)


def metrics_token(data_dir: Path) -> str:
    """The token that Prometheus shows; it opens ``/metrics`` alone."""
    return _kept_token(data_dir / METRICS_TOKEN_NAME)


def _kept_token(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


@contextlib.contextmanager
def _announced(data_dir: Path, addresses: Addresses) -> Iterator[None]:
    path, text = data_dir / ADDRESSES_NAME, json.dumps(plain.to_plain(addresses), indent=2) + "\n"
    _write(path, text)
    try:
        yield
    finally:
        if path.exists() and path.read_text() == text:  # not of one that took over
            path.unlink()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    temporary.replace(path)
