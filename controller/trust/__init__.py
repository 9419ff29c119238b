"""Who and what is trusted: certificates, signed metadata, signed orders, tokens.

`Trust` opens all of it from one private folder.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.disk import sync_folder
from controller.errors import TrustError
from controller.trust import certificates, files
from controller.trust.ca import LOCAL_HOSTS, CertificateAuthority
from controller.trust.director import Director
from controller.trust.repository import MetadataRepository

__all__ = ["CertificateAuthority", "Director", "MetadataRepository", "Trust", "TrustFiles"]

CONTROLLER_NAME = "ctl.1"
_OFFLINE = "offline"
_RENEW_DAYS = 30  # a controller that restarts once a month never serves an expired certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustFiles:
    """PEM files for servers and brokers, all in the trust folder."""

    server_key: Path
    server_certificate: Path  # leaf, then CA
    ca: Path
    controller_key: Path
    controller_certificate: Path
    crl: Path

    @classmethod
    def of(cls, folder: Path) -> TrustFiles:
        """The files of one trust folder."""
        return cls(
            server_key=folder / "server.key",
            server_certificate=folder / "server.crt",
            ca=folder / "ca.crt",
            controller_key=folder / f"{CONTROLLER_NAME}.key",
            controller_certificate=folder / f"{CONTROLLER_NAME}.crt",
            crl=folder / "crl.pem",
        )


class Trust:
    """Everything of one controller's trust folder, opened."""

    def __init__(
        self,
        folder: Path,
        ca: CertificateAuthority,
        director: Director,
        repository: MetadataRepository,
    ) -> None:
        self.folder = folder
        self.files = TrustFiles.of(folder)
        self.ca = ca
        self.director = director
        self.repository = repository

    @classmethod
    def create(
        cls,
        folder: Path,
        offline_folder: Path,
        hosts: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> Trust:
        """Make every key and certificate; ``hosts`` are names under which devices come.

        All is made beside the folder and takes its place at once: killed in between, it is begun
        anew, or goes on once all was made.

        Raises:
            TrustError: there is a trust folder already, or other keys are in ``offline_folder``.
        """
        if (folder / "ca").exists():
            raise TrustError(f"{folder} is a trust folder already; it is not replaced")
        if folder.exists() and any(folder.iterdir()):
            raise TrustError(f"{folder} holds something else; choose an empty folder")
        making = folder.with_name(f".{folder.name}.making")
        if not TrustFiles.of(making).crl.exists():
            shutil.rmtree(making, ignore_errors=True)
            cls._make(making, hosts, clock=clock)
        _hand_out(making / _OFFLINE, offline_folder)
        making.replace(folder)
        sync_folder(folder.parent)
        trust = cls.open(folder, offline_folder, clock=clock)
        trust.set_hosts(hosts)  # they may be others than those of a start that was cut short
        return trust

    @classmethod
    def _make(cls, folder: Path, hosts: Sequence[str], *, clock: Callable[[], float]) -> None:
        """Everything, the offline keys too, in one folder; the revocation list says "complete"."""
        files.make_private_folder(folder)
        offline = folder / _OFFLINE
        repository = MetadataRepository.init(folder / "metadata", offline, clock=clock)
        director = Director.create(folder / "director")
        ca = CertificateAuthority.create(folder / "ca", "Fitment CA")
        trust = cls(folder, ca, director, repository)
        trust._write_server(hosts)
        trust._write_controller()
        trust.write_crl()

    @classmethod
    def open(
        cls,
        folder: Path,
        offline_folder: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> Trust:
        """Load the folder; renews our own certificates and the revocation list when due.

        Raises:
            TrustError: something is missing or damaged; the message says what to do.
        """
        repository = MetadataRepository(folder / "metadata", offline_folder, clock=clock)
        ca = CertificateAuthority.open(folder / "ca")
        trust = cls(folder, ca, Director.open(folder / "director"), repository)
        trust.renew_own()
        trust.write_crl()
        return trust

    def revoke(self, serial: str | int, at: float) -> None:
        """Revoke a certificate and write the list that brokers read."""
        self.ca.revoke(serial, at)
        self.write_crl()

    def set_hosts(self, hosts: Sequence[str]) -> bool:
        """Issue the server certificate anew if it lacks one of ``hosts``; says if it did."""
        known = self._server_hosts()
        if set(hosts) <= set(known):
            return False
        self._write_server((*known, *hosts))
        return True

    def renew_own(self) -> None:
        """Issue the server's and the controller's certificate anew when they end soon."""
        own = self.files
        if not _is_good(own.server_key, own.server_certificate):
            self._write_server(self._server_hosts())
        if not _is_good(own.controller_key, own.controller_certificate):
            self._write_controller()

    def write_crl(self) -> None:
        """Write a fresh revocation list."""
        files.write_private(self.files.crl, self.ca.crl_pem())

    def _server_hosts(self) -> tuple[str, ...]:
        path = self.files.server_certificate
        return certificates.hosts_of(_read(path)) if path.exists() else LOCAL_HOSTS

    def _write_server(self, hosts: Sequence[str]) -> None:
        key, chain = self.ca.issue_server(hosts)
        files.write_private(self.files.ca, self.ca.certificate_pem)
        files.write_private(self.files.server_key, key)
        files.write_private(self.files.server_certificate, chain)

    def _write_controller(self) -> None:
        key, certificate = self.ca.issue_controller(CONTROLLER_NAME)
        files.write_private(self.files.controller_key, key)
        files.write_private(self.files.controller_certificate, certificate)


def _hand_out(made: Path, offline: Path) -> None:
    """Move the offline keys to where they belong; what was moved by an earlier try stays."""
    files.make_private_folder(offline)
    keys = sorted(made.iterdir()) if made.exists() else []
    for key in keys:
        target, data = offline / key.name, key.read_bytes()
        if target.exists() and target.read_bytes() != data:
            raise TrustError(
                f"{target} is there already and is not replaced; choose an empty folder"
            )
        files.write_private(target, data)
    shutil.rmtree(made, ignore_errors=True)


def _read(path: Path) -> x509.Certificate:
    data = files.read_required(path, "a certificate of this controller")
    try:
        return x509.load_pem_x509_certificate(data)  # the first of a chain
    except ValueError as error:
        raise TrustError(f"{path} holds no certificate; delete it and start again") from error


def _is_good(key: Path, certificate: Path) -> bool:
    """Whether both are there, belong together and last for another `_RENEW_DAYS`.

    They are written one after the other, so a crash in between leaves a pair that differs.
    """
    if not (key.exists() and certificate.exists()):
        return False
    loaded = _read(certificate)
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    left = loaded.not_valid_after_utc - dt.datetime.now(tz=dt.timezone.utc)
    return loaded.public_key() == private.public_key() and left > dt.timedelta(days=_RENEW_DAYS)
