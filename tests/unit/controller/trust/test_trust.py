"""The trust folder as a whole."""

from __future__ import annotations

import contextlib
import itertools
import stat
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography import x509

from controller.errors import TrustError
from controller.trust import Trust, certificates, files
from controller.trust.ca import LOCAL_HOSTS


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust.create(tmp_path / "trust", tmp_path / "offline", ["edge.example", "10.0.0.7"])


def server_hosts(trust: Trust) -> set[str]:
    data = trust.files.server_certificate.read_bytes()
    return set(certificates.hosts_of(x509.load_pem_x509_certificate(data)))


def test_everything_is_there_and_private(trust: Trust) -> None:
    for field in fields(trust.files):
        path = getattr(trust.files, field.name)
        assert path.exists(), field.name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(trust.folder.stat().st_mode) == 0o700
    assert server_hosts(trust) == {*LOCAL_HOSTS, "edge.example", "10.0.0.7"}


def test_opening_finds_the_same(trust: Trust, tmp_path: Path) -> None:
    before = trust.files.server_certificate.read_bytes()
    opened = Trust.open(trust.folder, tmp_path / "offline")
    assert opened.ca.fingerprint() == trust.ca.fingerprint()
    assert opened.director.key_id == trust.director.key_id
    assert opened.repository.root_bytes() == trust.repository.root_bytes()
    assert trust.files.server_certificate.read_bytes() == before


def test_it_is_never_replaced(trust: Trust, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="not replaced"):
        Trust.create(trust.folder, tmp_path / "offline2")


class Killed(BaseException):
    """Not an error that any code of ours may catch."""


@pytest.mark.parametrize("number", range(1, 25))
def test_a_creation_that_was_killed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before each file that is written, and once after the last."""
    write, written = files.write_private, itertools.count(1)

    def dying(path: Path, data: bytes) -> None:
        if next(written) == number:
            raise Killed
        write(path, data)

    monkeypatch.setattr(files, "write_private", dying)
    folder, offline = tmp_path / "trust", tmp_path / "offline"
    with contextlib.suppress(Killed):
        Trust.create(folder, offline)
    monkeypatch.undo()
    trust = (Trust.open if (folder / "ca").exists() else Trust.create)(folder, offline)
    assert {path.name for path in tmp_path.iterdir()} == {"trust", "offline"}
    assert {path.name for path in offline.iterdir()} == {"root.key", "targets.key"}
    assert not (folder / "offline").exists()
    assert trust.repository.root_bytes()
    assert Trust.open(folder, offline).ca.fingerprint() == trust.ca.fingerprint()


def test_keys_of_another_are_not_replaced(tmp_path: Path) -> None:
    Trust.create(tmp_path / "one", tmp_path / "offline")
    before = (tmp_path / "offline" / "root.key").read_bytes()
    with pytest.raises(TrustError, match="choose an empty folder"):
        Trust.create(tmp_path / "two", tmp_path / "offline")
    assert (tmp_path / "offline" / "root.key").read_bytes() == before


def test_new_hosts_are_added(trust: Trust) -> None:
    assert not trust.set_hosts(["localhost", "edge.example"])
    assert trust.set_hosts(["new.example"])
    assert server_hosts(trust) == {*LOCAL_HOSTS, "edge.example", "10.0.0.7", "new.example"}


def test_a_pair_that_does_not_belong_together_is_made_anew(trust: Trust) -> None:
    """A crash between the two writes leaves the new key beside the old certificate."""
    trust.files.server_key.write_bytes(trust.files.controller_key.read_bytes())
    trust.files.controller_certificate.unlink()
    opened = Trust.open(trust.folder)
    assert server_hosts(opened) == {*LOCAL_HOSTS, "edge.example", "10.0.0.7"}
    assert opened.files.controller_certificate.exists()


def test_revoking_reaches_the_brokers_list(trust: Trust) -> None:
    trust.revoke("12345", at=1_700_000_000)
    crl = x509.load_pem_x509_crl(trust.files.crl.read_bytes())
    assert [entry.serial_number for entry in crl] == [12345]
    assert trust.ca.is_revoked("12345")
