"""Who may belong to the fleet."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.errors import Conflict, TrustError, UserError
from controller.reconcile.rolling import RolloutPlan
from fitment.core.deployment import Outcome

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: Key) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "wish")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def serial(pem: bytes) -> str:
    return str(x509.load_pem_x509_certificate(pem).serial_number)


def test_a_token_admits_once(world: Any) -> None:
    text, token = world.controller.create_token(60.0, {"site": "north"})
    admission = world.controller.admit(text, "pi", request(new_key()))
    assert admission.device == "pi"
    assert world.controller.is_allowed("pi", serial(admission.certificate_pem))
    known = world.store.devices.get("pi")
    assert (known.labels, known.serials) == ({"site": "north"}, (known.serial,))
    assert text not in str(world.store.tokens.find()), "only the hash is kept"
    with pytest.raises(TrustError, match="used already, by 'pi'"):
        world.controller.admit(text, "pi2", request(new_key()))
    assert world.store.tokens.get(token.hash).used_by == "pi"


def test_a_token_ends(world: Any) -> None:
    text, _ = world.controller.create_token(60.0)
    world.clock.advance(61.0)
    with pytest.raises(TrustError, match="expired"):
        world.controller.admit(text, "pi", request(new_key()))
    with pytest.raises(UserError, match="more than 0"):
        world.controller.create_token(0.0)


def test_a_token_that_was_never_made(world: Any) -> None:
    with pytest.raises(TrustError, match="not known here"):
        world.controller.admit(f"fit1.{'a' * 32}.{'0' * 64}", "pi", request(new_key()))


@pytest.mark.parametrize("name", ["ctl.1", "a/b", "+", "x" * 65])
def test_a_name_that_could_mean_something_else(world: Any, name: str) -> None:
    text, _ = world.controller.create_token()
    with pytest.raises(UserError, match="cannot be a device's name"):
        world.controller.admit(text, name, request(new_key()))
    assert world.controller.admit(text, "", request(new_key())).device.startswith("device-")


def test_a_taken_name_burns_no_token(world: Any) -> None:
    world.join("pi")
    text, _ = world.controller.create_token()
    with pytest.raises(Conflict, match="enrolled already"):
        world.controller.admit(text, "pi", request(new_key()))
    world.controller.revoke("pi")
    world.controller.admit(text, "pi", request(new_key()))
    assert not world.store.devices.get("pi").revoked


def test_revoking_holds_for_every_certificate_and_ends_what_is_under_way(world: Any) -> None:
    text, _ = world.controller.create_token()
    first = serial(world.controller.admit(text, "pi", request(new_key())).certificate_pem)
    second = serial(world.controller.renew("pi", request(new_key())))
    world.join("a", behave=lambda _order: None)
    world.controller.create_rollout(world.released().id, RolloutPlan())
    world.turn()
    world.controller.revoke("pi")
    world.controller.revoke("a")
    assert world.trust.ca.is_revoked(first)
    assert world.trust.ca.is_revoked(second)
    assert not world.controller.is_allowed("pi", second)
    assert not world.controller.is_allowed("ghost", "1")
    (deployment,) = world.store.deployments.find()
    assert deployment.outcome is Outcome.CANCELLED
    with pytest.raises(TrustError, match="was revoked"):
        world.controller.renew("pi", request(new_key()))


def test_a_device_recovers_by_its_key(world: Any) -> None:
    key = new_key()
    text, _ = world.controller.create_token()
    old = world.controller.admit(text, "pi", request(key)).certificate_pem
    csr = request(new_key())
    proof = key.sign(csr, ec.ECDSA(hashes.SHA256()))
    world.join("other")
    with pytest.raises(TrustError, match="belongs to another device"):
        world.controller.recover("other", csr, old, proof)
    with pytest.raises(TrustError, match="does not hold"):
        world.controller.recover("pi", csr, old, b"forged")
    fresh = world.controller.recover("pi", csr, old, proof)
    assert world.controller.is_allowed("pi", serial(fresh))
