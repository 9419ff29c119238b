"""A data directory as it is after N devices were enrolled, before its controller starts.

Nothing goes past the product: each device makes a key and a request, gets a one-time token, and is
admitted by `reconcile.enrolment`, which certifies it with the CA of the trust room. What is left
out is the gRPC call around it, and that each device writes its papers on a disk of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from controller.artifacts.blobs import FolderBlobs
from controller.build import open_trust
from controller.config import Settings
from controller.domain import fleet
from controller.errors import Conflict
from controller.reconcile import enrolment
from controller.reconcile.context import Context
from controller.seats import DATABASE_NAME, TENANT, DirectoryLock
from controller.simulator import seed
from controller.simulator.device import SimDevice
from controller.simulator.fits import ModelledFits
from controller.store import open_store
from controller.trust import Trust, certificates
from fitment.core.link import Downlink
from profiles import all_profiles

TOGETHER = 200
"""Devices that are enrolled in one transaction."""


def provision(
    settings: Settings, members: list[SimDevice], papers: Path, say: Callable[[int], None]
) -> fleet.Release:
    """Enrol devices; ``papers`` gets a file of certificate and key for each, as PEM."""
    papers.mkdir(parents=True, exist_ok=True, mode=0o700)
    with DirectoryLock(settings.data_dir) as lock:
        if not lock.take():
            raise Conflict(f"another controller uses {settings.data_dir}")
        trust, _notes = open_trust(settings)
        context = opened(settings, trust)
        try:
            waiting = iter(members)
            done = 0
            while group := list(itertools.islice(waiting, TOGETHER)):
                with context.store.transaction():
                    for device in group:
                        _enrol(context, device.name, papers / f"{device.name}.pem")
                done += len(group)
                say(done)
            return seed.fill_release(context.store, time.time())
        finally:
            context.store.close()


def opened(settings: Settings, trust: Trust) -> Context:
    """A controller's records, while no controller runs on them."""
    folder = settings.data_dir.resolve()
    return Context(
        store=open_store(f"sqlite:///{folder / DATABASE_NAME}", TENANT), trust=trust,
        blobs=FolderBlobs(folder / "blobs"), profiles=all_profiles(),
        fits=ModelledFits(folder / "fits", seed.MODEL.id), publish=_nobody, clock=time.time,
    )  # fmt: skip


def _enrol(context: Context, name: str, path: Path) -> None:
    token, _ = enrolment.create_token(context, 3600.0, {})
    key = certificates.new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    admitted = enrolment.admit(context, token, name, csr)
    path.touch(mode=0o600)
    path.write_bytes(certificates.key_pem(key) + admitted.certificate_pem)


def _nobody(device: str, downlink: Downlink) -> None:
    """Nobody listens yet."""
