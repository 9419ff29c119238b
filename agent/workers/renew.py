"""Renew: a new certificate for the same key.

While the old certificate is valid it authenticates the request. A device that comes back from
a shelf (or whose clock is wrong, so that it cannot tell) proves by a signature that it still
has the key; only a revoked device stays out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from agent.jobs import RenewJob, RenewResult
from agent.workers import child, gateway_client, keys
from agent.workers.child import JobError
from fitment.v1 import gateway_pb2

_NEXT_DOOR = ("unavailable", "refused")
"""Failures after which the proof of key may still help: an expired certificate ends the TLS
handshake (unavailable), and a device cannot trust its own clock to know beforehand."""


def handle(job: RenewJob) -> RenewResult:
    """Replace ``device.crt`` (and ``ca.crt``).

    Raises:
        JobError: ``not_enrolled``, ``key``, ``refused`` (revoked), ``unavailable``, ``answer``.
    """
    folder = Path(job.keys)
    key = keys.load_key(folder)
    answer = _new_certificate(job, folder, key)
    certificate_pem, ca_pem = answer.certificate_pem, answer.ca_pem
    issued = keys.check_issued(certificate_pem, ca_pem, key)
    if issued.name != job.device:
        raise JobError("answer", f"the certificate is for '{issued.name}', not '{job.device}'")
    keys.write_private(folder / keys.CA, ca_pem)
    keys.write_private(folder / keys.CERTIFICATE, certificate_pem)
    _note_expiry(folder / keys.ENROLMENT, issued.expires_unix)
    return RenewResult(expires_unix=issued.expires_unix, now_unix=answer.now_unix)


def _new_certificate(job: RenewJob, folder: Path, key: ec.EllipticCurvePrivateKey) -> Any:
    """The controller's answer, by one door or the other; certificate and CA are PEM."""
    csr_pem = keys.make_csr(key, job.device)
    try:
        return _renew(job, csr_pem)
    except JobError as error:
        if error.code not in _NEXT_DOOR or not job.enroll_address:
            raise
        first = error
    try:
        return _recover(job, folder, key, csr_pem)
    except JobError as error:
        if error.code == "unavailable":
            raise first from error  # neither door opens: the first one's words say more
        raise


def _renew(job: RenewJob, csr_pem: bytes) -> Any:
    request = gateway_pb2.RenewCertificateRequest(csr_pem=csr_pem)
    with gateway_client.gateway(job.connection) as stub:
        try:
            return stub.RenewCertificate(request, timeout=gateway_client.CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise gateway_client.job_error(error, "renewing the certificate") from error


def _recover(job: RenewJob, folder: Path, key: ec.EllipticCurvePrivateKey, csr_pem: bytes) -> Any:
    request = gateway_pb2.RecoverRequest(
        device=job.device,
        csr_pem=csr_pem,
        expired_certificate_pem=gateway_client.read_key_file(str(folder / keys.CERTIFICATE)),
        proof=keys.prove(key, csr_pem),
    )
    ca_pem = gateway_client.read_key_file(job.connection.ca)
    with gateway_client.enroll(job.enroll_address, ca_pem) as stub:
        try:
            return stub.Recover(request, timeout=gateway_client.CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise gateway_client.job_error(error, "recovering the certificate by key") from error


def _note_expiry(path: Path, expires_unix: float) -> None:
    """Bring ``enrolment.json`` up to date; without one there is nothing to keep in step."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise JobError("not_enrolled", f"{path} is damaged: enrol again", permanent=True) from error
    record["expires_unix"] = expires_unix
    keys.write_private(path, json.dumps(record, indent=2).encode())


if __name__ == "__main__":
    sys.exit(child.run("renew", handle))
