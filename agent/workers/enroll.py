"""Enrol: a one-time token, or an operator's word, and a key made here become a certificate.

The token's third part pins the controller: see `agent.workers.first_contact`. Nothing is
written, but the key, until the whole answer was checked.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import grpc

from agent.jobs import EnrollJob, EnrollResult
from agent.workers import apply, child, first_contact, gateway_client, keys
from agent.workers.child import JobError
from agent.workers.keys import Issued
from fitment.core import digest as digests
from fitment.core import plain
from fitment.v1 import gateway_pb2
from fitment.wire import topics

_ROOM_BYTES = 256 * 1024  # keys and certificates take a tenth of it


def handle(job: EnrollJob) -> EnrollResult:
    """Fill ``job.keys``.

    Without a token the device asks for an operator's word: `agent.workers.apply`.

    Raises:
        JobError: ``pending`` (no operator has said anything yet), ``token``, ``name``,
            ``address``, ``wrong_ca``, ``unavailable`` (unreachable), ``refused`` (token unknown,
            used or expired: the message says which), ``conflict`` (name taken), ``answer``,
            ``disk_full``.
    """
    if job.device and not topics.valid_device_name(job.device):
        raise JobError(
            "name",
            f"not a device name: {job.device!r} (use A-Z a-z 0-9 _ -, at most 64 characters)",
            permanent=True,
        )
    folder = Path(job.keys)
    if not job.token:
        answer, key = apply.ask(job, folder)
    else:
        token = first_contact.read_token(job.token)
        ca_pem = _controller_ca(job, token.fingerprint)
        keys.ensure_folder(folder)
        key = keys.ensure_key(folder)
        _check_room(folder)
        request = gateway_pb2.AdmitRequest(
            token=token.text, device=job.device, csr_pem=keys.make_csr(key, job.device)
        )
        answer = _admit(job.controller, ca_pem, request)
        first_contact.check_ca(answer.ca_pem, token.fingerprint, "what the controller sent")
    issued = keys.check_issued(answer.certificate_pem, answer.ca_pem, key)
    result = _result(answer, issued)
    _write(folder, answer, result, enroll_address=job.controller)
    apply.done(folder)
    return result


def _check_room(folder: Path) -> None:
    """A token admits once: who cannot store the answer must not ask for it."""
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        raise JobError(
            "disk_full",
            f"{folder} has {free} bytes free, enrolling needs {_ROOM_BYTES}: make room on this "
            "disk and enrol again, the token is still good",
        )


def _controller_ca(job: EnrollJob, fingerprint: str) -> bytes:
    if job.ca_fingerprint and job.ca_fingerprint != fingerprint:
        raise JobError(
            "wrong_ca",
            "the fingerprint that was given differs from the token's: one of them belongs to "
            "another controller",
            permanent=True,
        )
    if not job.ca:
        return first_contact.find_ca(job.controller, fingerprint)
    ca_pem = gateway_client.read_key_file(job.ca)
    first_contact.check_ca(ca_pem, fingerprint, job.ca)
    return ca_pem


def _admit(
    address: str, ca_pem: bytes, request: gateway_pb2.AdmitRequest
) -> gateway_pb2.AdmitResponse:
    with gateway_client.enroll(address, ca_pem) as stub:
        try:
            answer: gateway_pb2.AdmitResponse = stub.Admit(
                request, timeout=gateway_client.CALL_TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise gateway_client.job_error(error, f"enrolling at {address}") from error
    return answer


def _result(answer: gateway_pb2.AdmitResponse, issued: Issued) -> EnrollResult:
    if issued.name != answer.device or not topics.valid_device_name(answer.device):
        raise JobError("answer", f"the certificate is for '{issued.name}', not '{answer.device}'")
    if len(answer.director_public_key) != 32 or not answer.tuf_root:
        raise JobError("answer", "the controller sent no director key or no root of its metadata")
    if digests.digest_bytes(answer.director_public_key) != answer.director_key_id:
        raise JobError("answer", "the director's key does not match its id")
    return EnrollResult(
        device=answer.device,
        gateway=answer.gateway_address,
        mqtt=answer.mqtt_address,
        expires_unix=issued.expires_unix,
    )


def _write(
    folder: Path, answer: gateway_pb2.AdmitResponse, result: EnrollResult, *, enroll_address: str
) -> None:
    keys.write_private(folder / keys.CERTIFICATE, answer.certificate_pem)
    keys.write_private(folder / keys.CA, answer.ca_pem)
    keys.write_private(folder / keys.ROOT, answer.tuf_root)
    keys.write_private(folder / keys.DIRECTOR, answer.director_public_key.hex().encode())
    record = {
        **plain.to_plain(result),
        "enroll": enroll_address,
        "director_key_id": answer.director_key_id,
    }
    keys.write_private(folder / keys.ENROLMENT, json.dumps(record, indent=2).encode())


if __name__ == "__main__":
    sys.exit(child.run("enroll", handle))
