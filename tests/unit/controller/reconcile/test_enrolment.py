"""Who may belong to the fleet."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.domain import fleet
from controller.errors import Conflict, NotFound, Temporary, TrustError, UserError
from controller.reconcile import applying, levels
from controller.reconcile.rolling import RolloutPlan
from controller.testing import fingerprint
from fitment.core import admission
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


@pytest.fixture
def open_world(world: Any) -> Any:
    """It lets devices ask for an operator's word."""
    context = world.controller.context
    world.controller.context = replace(
        context, settings=replace(context.settings, enrolment_by_approval=True)
    )
    return world


def test_nobody_may_ask_where_it_is_not_set(world: Any) -> None:
    with pytest.raises(TrustError, match="by token only"):
        world.controller.apply("pi", request(new_key()))
    assert world.store.applicants.find() == ()


def test_only_the_key_that_was_compared_comes_in(open_world: Any) -> None:
    world, key = open_world, new_key()
    context = world.controller.context
    asked = world.controller.apply("pi", request(key))
    assert (asked.device, asked.admission) == ("pi", None)
    with pytest.raises(Conflict, match="another device waits under the name 'pi'"):
        world.controller.apply("pi", request(new_key()))
    (waiting,) = applying.waiting(context)
    with pytest.raises(UserError, match="does not wait with the code AAAAA"):
        applying.approve(context, "pi", "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA")
    applying.approve(context, "pi", waiting.code.lower().replace("-", " "), {"site": "lab"})
    assert world.store.devices.get("pi") is None, "it comes in when it asks"
    first = world.controller.apply("pi", request(key)).admission
    assert world.controller.is_allowed("pi", serial(first.certificate_pem))
    again = world.controller.apply("pi", request(key)).admission
    assert world.controller.is_allowed("pi", serial(again.certificate_pem)), "an answer was lost"
    with pytest.raises(Conflict, match="another device waits"):
        world.controller.apply("pi", request(new_key()))
    with pytest.raises(Conflict, match="was let in already"):
        applying.reject(context, "pi")
    world.controller.revoke("pi")
    acts = [e.action for e in world.store.audit.find(subject="pi")]
    assert acts == ["applied", "approved", "admitted", "renewed", "revoked"]


def test_codes_tell_keys_and_authorities_apart() -> None:
    codes = {admission.code(key, ca) for key in ("sha256:a", "sha256:b") for ca in ("x", "y")}
    assert len(codes) == 4
    assert all(re.fullmatch(r"([A-Z2-7]{5}-){4}[A-Z2-7]{5}", code) for code in codes)
    assert not admission.same("", "")


def test_a_refused_key_is_told_for_a_day(open_world: Any) -> None:
    world, key = open_world, new_key()
    world.controller.apply("pi", request(key))
    applying.reject(world.controller.context, "pi")
    with pytest.raises(TrustError, match="an operator refused 'pi'"):
        world.controller.apply("pi", request(key))
    with pytest.raises(NotFound, match="no device waits under the name 'other'"):
        applying.approve(world.controller.context, "other", "x")
    world.clock.advance(86_401.0)
    assert world.controller.apply("pi", request(new_key())).device == "pi"


def test_how_many_wait_and_come_is_bounded(open_world: Any) -> None:
    world, csr = open_world, request(new_key())
    for number in range(applying.NEW_A_MINUTE):
        world.controller.apply(f"pi-{number}", csr)
    with pytest.raises(Temporary, match="too many devices ask at once"):
        world.controller.apply("one-more", csr)
    assert world.controller.apply("pi-1", csr).admission is None, "who waits may ask again"
    world.clock.advance(61.0)
    for number in range(applying.NEW_A_MINUTE, applying.MOST):
        world.clock.advance(4.0)
        world.controller.apply(f"pi-{number}", csr)
    world.clock.advance(61.0)
    with pytest.raises(Temporary, match="100 devices wait"):
        world.controller.apply("one-more", csr)
    world.clock.advance(applying.SILENT_S)
    assert world.controller.apply("one-more", csr).device == "one-more"
    assert len(applying.waiting(world.controller.context)) == 1, "the others ask no more"


def test_a_name_without_a_wish_follows_the_key(open_world: Any) -> None:
    key = new_key()
    one, other = (open_world.controller.apply("", request(key)).device for _ in range(2))
    assert one == other
    assert one.startswith("device-")
    open_world.join("taken")
    with pytest.raises(Conflict, match="is enrolled already"):
        open_world.controller.apply("taken", request(key))


def test_a_decommissioned_device_is_out_and_its_name_is_free(world: Any) -> None:
    world.join("a")
    world.join("b")
    release = world.released()
    world.devices["b"].disconnect()
    made = world.controller.create_rollout(release.id, RolloutPlan(waves=(1.0,)))
    world.settle()
    assert world.rollout(made.id).pending == ("b",)
    serials = [world.store.devices.get(name).serial for name in "ab"]
    world.controller.decommission("a")
    world.controller.decommission("b")
    assert world.rollout(made.id).pending == ()
    assert not any(world.controller.is_allowed(n, s) for n, s in zip("ab", serials, strict=True))
    assert len(world.store.deployments.find(device="a")) == 1, "its history stays"
    with pytest.raises(Conflict, match="decommissioned already"):
        world.controller.decommission("a")
    text, _ = world.controller.create_token()
    world.clock.advance(5.0)
    world.controller.admit(text, "a", request(new_key()))
    fresh = world.store.devices.get("a")
    assert (fresh.revoked, fresh.renamed_at) == (False, world.clock())
    twin = world.devices["a"]
    twin.slots = {}
    twin.connect()
    world.settle()
    assert len(world.store.deployments.find(device="a")) == 1, "the old one's model is not its own"
    later = replace(release, id="after-decommission", counter=release.counter + 1, approved_at=0.0)
    world.store.releases.add(later)
    world.controller.approve_release("after-decommission")
    world.controller.create_rollout("after-decommission", RolloutPlan(waves=(1.0,)))
    world.settle()
    assert world.runs("a") == "int8", "it is a device like any other"


def approved(world: Any, key: Key) -> None:
    """A device that an operator has let in."""
    world.controller.apply("pi", request(key))
    (waiting,) = applying.waiting(world.controller.context)
    applying.approve(world.controller.context, "pi", waiting.code)


@pytest.mark.parametrize("out", ["revoke", "decommission"])
def test_an_approval_lets_nobody_in_again_who_was_shut_out(open_world: Any, out: str) -> None:
    world, key = open_world, new_key()
    approved(world, key)
    assert world.controller.apply("pi", request(key)).admission is not None
    world.clock.advance(60.0)
    getattr(world.controller, out)("pi")
    assert world.controller.apply("pi", request(key)).admission is None, "it waits again"
    assert world.store.devices.get("pi").revoked


@pytest.mark.parametrize("came_in", [True, False])
def test_a_name_has_one_key(open_world: Any, came_in: bool) -> None:
    """Who has it by a token meanwhile shares it with nobody that was approved before."""
    world, key, other = open_world, new_key(), new_key()
    approved(world, key)
    if came_in:
        world.controller.apply("pi", request(key))
        world.controller.revoke("pi")
    world.clock.advance(2.0)
    text, _ = world.controller.create_token()
    world.controller.admit(text, "pi", request(other))
    with pytest.raises(Conflict, match="enrolled already"):
        world.controller.apply("pi", request(key))
    assert len(world.store.devices.get("pi").serials) == 1


def test_a_name_stays_anothers_when_its_second_device_was_revoked(world: Any) -> None:
    world.join("a")
    world.controller.decommission("a")
    for advance in (5.0, 7.0):
        world.clock.advance(advance)
        text, _ = world.controller.create_token()
        world.controller.admit(text, "a", request(new_key()))
        world.controller.revoke("a")
    assert world.store.devices.get("a").renamed_at == world.clock() - 7.0


def test_labels_of_those_to_come_are_labels_like_any(open_world: Any) -> None:
    world, context = open_world, open_world.controller.context
    with pytest.raises(UserError, match="'a b' cannot be a label"):
        world.controller.create_token(60.0, {"a b": "x"})
    world.controller.apply("pi", request(new_key()))
    (waiting,) = applying.waiting(context)
    with pytest.raises(UserError, match="the label 'site' has at most"):
        applying.approve(context, "pi", waiting.code, {"site": "x" * 300})
    assert applying.waiting(context) == (waiting,)


def test_what_a_former_device_of_a_name_ran_asks_nothing_of_the_new_one(world: Any) -> None:
    world.join("a")
    made = world.controller.create_rollout(world.released().id, RolloutPlan(waves=(1.0,)))
    world.settle()
    assert world.rollout(made.id).state is fleet.RolloutState.COMPLETED
    world.controller.decommission("a")
    text, _ = world.controller.create_token()
    world.clock.advance(5.0)
    world.controller.admit(text, "a", request(new_key()))
    twin = world.devices["a"]
    twin.slots = {}
    twin.connect()
    world.settle()
    look, context = levels.Look(), world.controller.context
    levels.advance(context, look)
    while look.under_way:
        levels.advance(context, look)
    assert look.members == {}
    twin.change(fingerprint(runtime="1.32"))
    world.settle(40)
    assert world.store.triggers.find() == ()
