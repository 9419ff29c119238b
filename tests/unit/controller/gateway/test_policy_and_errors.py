"""A row for every call and a catalogue entry for every error, and nothing more."""

from __future__ import annotations

import inspect

import grpc
import pytest

from controller import errors
from controller.gateway import errors as catalogue
from controller.gateway import grpc_calls, policy
from fitment.v1 import gateway_pb2


def methods() -> set[str]:
    services = gateway_pb2.DESCRIPTOR.services_by_name.values()
    return {f"/{s.full_name}/{method.name}" for s in services for method in s.methods}


def kinds() -> list[type[errors.FitmentError]]:
    found = (kind for _, kind in inspect.getmembers(errors, inspect.isclass))
    return [kind for kind in found if issubclass(kind, errors.FitmentError)]


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(policy.POLICY) == methods()
    assert all(rule.why for rule in policy.POLICY.values())


def test_only_enrolment_is_open() -> None:
    anyone = {m for m, rule in policy.POLICY.items() if rule.caller is policy.Caller.ANYONE}
    assert anyone == {f"/fitment.v1.Enroll/{method}" for method in ("Admit", "Apply", "Recover")}


def test_an_unknown_method_is_refused() -> None:
    assert policy.rule_for("/fitment.v1.Gateway/Shutdown") is None


def test_every_error_has_an_entry_and_every_entry_an_error() -> None:
    assert {kind.code for kind in kinds()} == set(catalogue.CATALOGUE)


def test_no_failure_looks_like_success() -> None:
    for entry in catalogue.CATALOGUE.values():
        assert entry.grpc is not grpc.StatusCode.OK
        assert 400 <= entry.http < 600


def test_an_internal_error_tells_nothing_and_others_their_message() -> None:
    assert catalogue.public(errors.FitmentError("disk /secret")).text == (
        "the controller failed; its log says why"
    )
    assert catalogue.public(errors.NotFound("no device 'x'")).text == "no device 'x'"


def test_a_later_kind_of_error_falls_back_to_its_parent() -> None:
    class Newer(errors.Conflict):
        code = "newer"

    assert catalogue.public(Newer("it changed")).code == "conflict"


def test_retry_after_is_said_for_temporary_errors_only() -> None:
    assert catalogue.public(errors.Temporary("busy", 2.0)).retry_after_s == 2.0
    assert catalogue.public(errors.Conflict("no")).retry_after_s is None


def test_a_service_without_all_behaviours_does_not_start() -> None:
    async def check(_device: str, _serial: str) -> bool:
        return True

    with pytest.raises(LookupError, match="Recover"):
        grpc_calls.service("Enroll", {"Admit": lambda *_: check("", "")}, check)


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({}, "needs a device certificate"),
        ({"x509_common_name": [b"a", b"b"], "x509_pem_cert": [b""]}, "needs a device certificate"),
        ({"x509_common_name": [b"device-a"]}, "needs a device certificate"),
        ({"x509_common_name": [b"ctl.1"], "x509_pem_cert": [b""]}, "not a device's"),
        ({"x509_common_name": [b"+"], "x509_pem_cert": [b""]}, "not a device's"),
    ],
)
def test_who_has_no_proper_name_is_nobody(auth: dict[str, list[bytes]], message: str) -> None:
    with pytest.raises(errors.TrustError, match=message):
        grpc_calls.identity(auth)
