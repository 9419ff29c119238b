"""Tokens, and the signatures under orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import TrustError
from controller.trust.director import Director
from controller.trust.tokens import hash_token, make_token
from fitment.core import digest
from fitment.core.deployment import BundleRef, Study, StudyKind

FINGERPRINT = digest.digest_bytes(b"a certificate")
STUDY = Study(
    id="s1",
    kind=StudyKind.PROBE,
    device="cam-1",
    bundle=BundleRef(variant="v", name="n", archive="a", archive_bytes=1, target="t"),
)


def test_a_token_pins_the_controller_and_is_never_the_same() -> None:
    first, second = make_token(FINGERPRINT), make_token(FINGERPRINT)
    assert first.text != second.text
    kind, secret, fingerprint = first.text.split(".")
    assert (kind, "sha256:" + fingerprint) == ("fit1", FINGERPRINT)
    assert len(secret) == 32
    assert hash_token(f" {first.text}\n") == first.hash  # pasted from a terminal
    assert secret not in first.hash


@pytest.mark.parametrize("text", ["", "fit1", "fit1.a.b", "fit2." + "a" * 32 + "." + "0" * 64])
def test_what_is_no_token_is_said(text: str) -> None:
    with pytest.raises(TrustError, match="no enrolment token"):
        hash_token(text)


def test_orders_are_signed_over_canonical_json(tmp_path: Path) -> None:
    director = Director.create(tmp_path)
    signed = director.sign(STUDY)
    assert signed.payload == digest.canonical(STUDY)
    assert signed.key_id == digest.digest_bytes(director.public_raw)
    assert director.holds(signed)
    assert Director.open(tmp_path).holds(signed)  # the same key after a restart
    assert Director.create(tmp_path).key_id == director.key_id


def test_another_signature_does_not_hold(tmp_path: Path) -> None:
    director, other = Director.create(tmp_path / "a"), Director.create(tmp_path / "b")
    assert not director.holds(other.sign(STUDY))
    signed = director.sign(STUDY)
    assert not director.holds(
        type(signed)(
            payload=signed.payload + b" ", key_id=signed.key_id, signature=signed.signature
        )
    )


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="director"):
        Director.open(tmp_path)
    (tmp_path / "director.key").write_bytes(b"rubbish")
    with pytest.raises(TrustError, match="damaged"):
        Director.open(tmp_path)
